// Operands of a product of strided stacks of matrices, with a bias: shared by the tiled and the thin kernel.
#include "common/view.wgsl"
// Whether there is more than one matrix of each.
#const STACKED = true
struct Params {
    a: View,
    b: View,
    m: u32,
    n: u32,
    k: u32,
    ldc: u32,
    first: u32,
    row_tile: u32,
    a_row: u32,
    a_col: u32,
    b_row: u32,
    b_col: u32,
    bias_at: u32,
    bias_step: u32,
}
#params
#bind read a
#bind read b
#bind read bias
#bind write y

var<private> a_base: u32;
var<private> b_base: u32;

fn begin(batch: u32) {
    a_base = p.a.words[3].x;
    b_base = p.b.words[3].x;
    if (STACKED) {
        a_base = place_in(p.a, batch);
        b_base = place_in(p.b, batch);
    }
}

fn a_at(row: u32, k: u32) -> f32 {
    return load_a(a_base + row * p.a_row + k * p.a_col);
}

fn b_at(k: u32, col: u32) -> f32 {
    return load_b(b_base + k * p.b_row + col * p.b_col);
}

fn a_oct(row: u32, k: u32) -> Oct {
    return oct_a(a_base + row * p.a_row + k);
}

fn b_oct(k: u32, col: u32) -> Oct {
    return oct_b(b_base + k + col * p.b_col);
}

fn finish(row: u32, col: u32, sum: f32) -> f32 {
    if (BIAS_BOUND) {
        return sum + load_bias(p.bias_at + col * p.bias_step);
    }
    return sum;
}
