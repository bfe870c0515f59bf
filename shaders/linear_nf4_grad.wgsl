// dx = [dy | u]·[W ; A] for a 4-bit W [outer, inner]; values of W and A are rounded to the type of dy.
#include "common/packed.wgsl"
struct Params {
    q: Packed,
    m: u32,
    n: u32,
    k: u32,
    ldc: u32,
    first: u32,
    row_tile: u32,
    outer: u32,
    dy_at: u32,
    dy_row: u32,
    dy_col: u32,
    rank: u32,
    a_at: u32,
    a_row: u32,
    a_col: u32,
}
#params
#bind read dy
#bind read u
#bind read a
#bind write y

fn begin(batch: u32) {}

fn a_at(row: u32, k: u32) -> f32 {
    if (k < p.outer) {
        return load_dy(p.dy_at + row * p.dy_row + k * p.dy_col);
    }
    return load_u(row * p.rank + k - p.outer);
}

fn b_at(k: u32, col: u32) -> f32 {
    if (k < p.outer) {
        return round_dy(packed_value(k * p.n + col));
    }
    return round_dy(load_a(p.a_at + (k - p.outer) * p.a_row + col * p.a_col));
}

// Not taken: B_OCT is never set, for neighbours along k lie apart.
fn b_oct(k: u32, col: u32) -> Oct {
    return Oct();
}

fn a_oct(row: u32, k: u32) -> Oct {
    if (k < p.outer) {
        return oct_dy(p.dy_at + row * p.dy_row + k);
    }
    return oct_u(row * p.rank + k - p.outer);
}

fn finish(row: u32, col: u32, sum: f32) -> f32 {
    return sum;
}
#include "common/gemm.wgsl"
