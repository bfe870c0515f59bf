// Values of block-wise codes: table[code]·scale, a product in f32. FOUR: two codes to a byte, the even one in the high
// half. NESTED: the scales are codes themselves, map[code]·second + offset. The kernel's parameters hold a `Packed`, q.
#const FOUR = true
#const NESTED = false
// Elements that share a scale, and scales that share one of the second level: constants, for divisions by them.
#const BLOCK = 64u
#const NESTED_BLOCK = 256u
#bind read codes: u8
#bind read scales: f32
#bind read scale_codes: u8
#bind read second: f32
#bind table map
#bind table values

struct Packed {
    codes_at: u32,
    block: u32,
    nested_block: u32,
    scales_at: u32,
    second_at: u32,
    offset: f32,
    // Uniforms hold structs in multiples of 16 bytes.
    unused0: u32,
    unused1: u32,
}

fn scale_of(block: u32) -> f32 {
    if (NESTED) {
        let second = load_second(p.q.second_at + block / NESTED_BLOCK);
        return load_map(load_scale_codes(p.q.scales_at + block)) * second + p.q.offset;
    }
    return load_scales(p.q.scales_at + block);
}

// Element i of the flattened value.
fn packed_value(i: u32) -> f32 {
    var code = 0u;
    if (FOUR) {
        let pair = load_codes(p.q.codes_at + i / 2u);
        code = select(pair & 15u, pair >> 4u, (i & 1u) == 0u);
    } else {
        code = load_codes(p.q.codes_at + i);
    }
    return load_values(code) * scale_of(i / BLOCK);
}

// Eight 4-bit codes of a word, elements 0 to 3 and 4 to 7.
fn low_codes(w: u32) -> vec4<u32> {
    return (vec4<u32>(w) >> vec4<u32>(4u, 0u, 12u, 8u)) & vec4<u32>(15u);
}

fn high_codes(w: u32) -> vec4<u32> {
    return (vec4<u32>(w) >> vec4<u32>(20u, 16u, 28u, 24u)) & vec4<u32>(15u);
}

// The first sixteen values, for values_of: take_values fills them.
var<private> values_0: vec4<f32>;
var<private> values_1: vec4<f32>;
var<private> values_2: vec4<f32>;
var<private> values_3: vec4<f32>;

fn take_values() {
    #repeat i 4
    values_$i = vec4<f32>(load_values(4u * $iu), load_values(4u * $iu + 1u), load_values(4u * $iu + 2u), load_values(4u * $iu + 3u));
    #end
}

// Values of four codes, by a tree of choices between the table's sixteen.
fn values_of(codes: vec4<u32>) -> vec4<f32> {
    let three = (codes & vec4<u32>(8u)) != vec4<u32>();
    let two = (codes & vec4<u32>(4u)) != vec4<u32>();
    let one = (codes & vec4<u32>(2u)) != vec4<u32>();
    let zero = (codes & vec4<u32>(1u)) != vec4<u32>();
    #repeat i 4
    let a$i = select(vec4<f32>(values_0[$i]), vec4<f32>(values_2[$i]), three);
    #end
    let a4 = select(vec4<f32>(values_1[0]), vec4<f32>(values_3[0]), three);
    let a5 = select(vec4<f32>(values_1[1]), vec4<f32>(values_3[1]), three);
    let a6 = select(vec4<f32>(values_1[2]), vec4<f32>(values_3[2]), three);
    let a7 = select(vec4<f32>(values_1[3]), vec4<f32>(values_3[3]), three);
    let b0 = select(a0, a4, two);
    let b1 = select(a1, a5, two);
    let b2 = select(a2, a6, two);
    let b3 = select(a3, a7, two);
    let c0 = select(b0, b2, one);
    let c1 = select(b1, b3, one);
    return select(c0, c1, zero);
}

// The eight values of a word of codes.
fn values_in(w: u32) -> Oct {
    return Oct(values_of(low_codes(w)), values_of(high_codes(w)));
}

// Eight elements from i on, of which i is a multiple: they lie in one block and one word.
fn packed_oct(i: u32) -> Oct {
    let scale = scale_of(i / BLOCK);
    let w = word_codes(p.q.codes_at + i / 2u);
    return Oct(values_of(low_codes(w)) * scale, values_of(high_codes(w)) * scale);
}
