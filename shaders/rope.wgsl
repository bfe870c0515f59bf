// Rotates pairs of each head by position · frequency, with the roundings of engine/src/ops/rope.rs. HALF: pairs are
// (i, i + D/2), else (2i, 2i + 1). x is [B, S, H, D]; p.sign −1 turns back.
#const HALF = true
#include "common/trig.wgsl"
struct Params { x: View, positions: View, count: u32, d: u32, row: u32, sign: f32 }
#params
#bind read x
#view x
#bind read positions: u32
#view positions
#bind read frequencies: f32
#bind write y

fn value(i: u32) -> f32 {
    let c = i % p.d;
    let half = p.d / 2u;
    let first = select(c % 2u == 0u, c < half, HALF);
    let pair = select(c / 2u, c % half, HALF);
    let step = select(1u, half, HALF);
    let other = select(i - step, i + step, first);
    let angle = f32(load_positions(at_positions(i / p.row))) * load_frequencies(pair);
    let turn = cos_sin(angle);
    let cosine = round_x(turn.x);
    let sine = p.sign * round_x(turn.y);
    let a = round_x(load_x(at_x(i)) * cosine);
    let b = round_x(load_x(at_x(other)) * sine);
    return select(a + b, a - b, first);
}
#include "common/elementwise.wgsl"
