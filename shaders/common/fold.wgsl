// What a reduction does with elements; KIND: sum, sum of squares, maximum (NaN wins).
#const KIND = 0u
// Elements that are taken into one partial result: the error of a long f32 sum grows with the longer of two levels.
const BLOCK = 256u;

fn fold_start() -> f32 {
    if (KIND == 2u) {
        return minus_infinity();
    }
    return 0.0;
}

fn fold_join(a: f32, b: f32) -> f32 {
    if (KIND == 2u) {
        return select(a, b, b > a || is_nan(b));
    }
    return a + b;
}

fn fold_take(a: f32, x: f32) -> f32 {
    if (KIND == 1u) {
        return a + x * x;
    }
    return fold_join(a, x);
}

// Whether what is reduced lies as one dimension: then a term's place needs no division.
#const FLAT = false

// Where term `s` lies, from the first.
fn term_place(s: u32) -> u32 {
    if (FLAT) {
        return s * p.reduced.words[1].z;
    }
    return place_in(p.reduced, s);
}
