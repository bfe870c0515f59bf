// A strided view: words 0–5 the sizes, 6–11 the strides, 12 the offset, 13 the number of dimensions (1 to 6). Sizes
// of 1 are gone and dimensions that continue each other are one.
struct View {
    words: array<vec4<u32>, 4>,
}

fn view_word(v: View, i: u32) -> u32 {
    var words = v.words;
    return words[i / 4u][i % 4u];
}

// Where element `i`, counted row-major, lies.
fn place_in(v: View, i: u32) -> u32 {
    var rest = i;
    var at = view_word(v, 12u);
    for (var d = view_word(v, 13u) - 1u; d > 0u; d--) {
        let size = view_word(v, d);
        let q = rest / size;
        at += (rest - q * size) * view_word(v, 6u + d);
        rest = q;
    }
    return at + rest * view_word(v, 6u);
}
