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
    row_tile: u32,
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

fn begin(batch: u32) {
    take_values();
}

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

fn a_oct(row: u32, k: u32) -> Oct {
    if (k < p.inner) {
        return oct_x(p.x_at + row * p.x_row + k);
    }
    return oct_h(row * p.rank + k - p.inner);
}

// The term of an adapter whose rank divides by eight goes element by element: B is small.
fn b_oct(k: u32, col: u32) -> Oct {
    var v = Oct();
    if (k < p.inner) {
        v = packed_oct(col * p.inner + k);
        return Oct(round_quad_x(v.lo), round_quad_x(v.hi));
    }
    for (var i = 0u; i < 4u; i++) {
        v.lo[i] = b_at(k + i, col);
        v.hi[i] = b_at(k + i + 4u, col);
    }
    return v;
}

fn finish(row: u32, col: u32, sum: f32) -> f32 {
    if (BIAS_BOUND) {
        return sum + load_bias(p.bias_at + col * p.bias_step);
    }
    return sum;
}
