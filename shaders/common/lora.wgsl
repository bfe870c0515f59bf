// The small products of a low-rank adapter: y = factor · a·b, where
//   ROUND_B   elements of b are multiplied with p.scale and rounded to the type of a,
//   DROP_A, DROP_B   elements of a or b, counted row-major, go through dropout and are rounded,
//   ADD       the result, rounded and through dropout, is added to y.
#const ROUND_B = false
#const DROP_A = false
#const DROP_B = false
#const ADD = false
#include "common/dropout.wgsl"
struct Params {
    m: u32,
    n: u32,
    k: u32,
    ldc: u32,
    first: u32,
    row_tile: u32,
    a_at: u32,
    a_row: u32,
    a_col: u32,
    b_at: u32,
    b_row: u32,
    b_col: u32,
    scale: f32,
    factor: f32,
    low: u32,
    high: u32,
    threshold: u32,
    keep: f32,
}
#params
#bind read a
#bind read b
#bind update y

fn begin(batch: u32) {}

fn dropped(v: f32, index: u32) -> f32 {
    return select(0.0, round_a(v * p.keep), dropout_keeps(index, p.low, p.high, p.threshold));
}

fn a_at(row: u32, k: u32) -> f32 {
    let v = load_a(p.a_at + row * p.a_row + k * p.a_col);
    if (DROP_A) {
        return dropped(v, row * p.k + k);
    }
    return v;
}

fn b_at(k: u32, col: u32) -> f32 {
    let v = load_b(p.b_at + k * p.b_row + col * p.b_col);
    if (ROUND_B) {
        return round_a(v * p.scale);
    }
    if (DROP_B) {
        return dropped(v, k * p.n + col);
    }
    return v;
}

// Not taken: OCT is never set.
fn a_oct(row: u32, k: u32) -> Oct {
    return Oct();
}

fn b_oct(k: u32, col: u32) -> Oct {
    return Oct();
}

fn finish(row: u32, col: u32, sum: f32) -> f32 {
    if (ADD) {
        let i = row * p.n + col;
        let v = round_y(sum);
        let old = load_y(i);
        return old + select(0.0, v * p.keep, dropout_keeps(i, p.low, p.high, p.threshold));
    }
    return sum * p.factor;
}
