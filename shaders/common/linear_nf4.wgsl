// Operands of [x | h]·[W | scale·B]ᵀ (+ bias): the low-rank term is a continuation of the inner dimension. Values of W and
// of scale·B are rounded to the type of x.
#include "common/packed.wgsl"
struct Params {
    q: Packed,
    m: u32,
    n: u32,
    k: u32,
    ldc: u32,
    first: u32,
    inner: u32,
    x_at: u32,
    x_row: u32,
    x_col: u32,
    rank: u32,
    b_at: u32,
    b_row: u32,
    b_col: u32,
    bias_at: u32,
    bias_step: u32,
    scale: f32,
}
#params
#bind read x
#bind read h
#bind read b
#bind read bias
#bind write y

fn begin(batch: u32) {}

fn a_at(row: u32, k: u32) -> f32 {
    if (k < p.inner) {
        return load_x(p.x_at + row * p.x_row + k * p.x_col);
    }
    return load_h(row * p.rank + k - p.inner);
}

fn b_at(k: u32, col: u32) -> f32 {
    if (k < p.inner) {
        return round_x(packed_value(col * p.inner + k));
    }
    return round_x(load_b(p.b_at + col * p.b_row + (k - p.inner) * p.b_col) * p.scale);
}

fn finish(row: u32, col: u32, sum: f32) -> f32 {
    if (BIAS_BOUND) {
        return sum + load_bias(p.bias_at + col * p.bias_step);
    }
    return sum;
}
