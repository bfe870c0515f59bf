// Rotates q into `rotated` and k into `keys`, and copies v into `values`, which are views that keep their other elements.
// HALF: pairs are (i, i + D/2), else (2i, 2i + 1). Roundings are those of rope.wgsl in the inputs' type, number FROM; then
// elements are converted to the targets' type, TO. So many elements of a target as its *_TOGETHER says lie in one word that
// holds nothing else.
#const HALF = true
#const FROM = 0u
#const TO = 0u
#const ROTATED_TOGETHER = 1u
#const KEYS_TOGETHER = 1u
#const VALUES_TOGETHER = 1u
#include "common/trig.wgsl"
#include "common/convert.wgsl"
#include "common/grid.wgsl"
struct Params {
    q: View,
    k: View,
    v: View,
    positions: View,
    rotated: View,
    keys: View,
    values: View,
    q_count: u32,
    k_count: u32,
    d: u32,
    q_row: u32,
    k_row: u32,
}
#params
#bind read q
#view q
#bind read k
#view k
#bind read v
#view v
#bind read positions: u32
#view positions
#bind read frequencies: f32
#bind update rotated
#view rotated
#bind update keys
#view keys
#bind update values
#view values

// How element i of rows of `row` elements a token turns: with which other, and whether it is the pair's first.
struct Turn {
    other: u32,
    first: bool,
    cosine: f32,
    sine: f32,
}

fn turn_of(i: u32, row: u32) -> Turn {
    let c = i % p.d;
    let half = p.d / 2u;
    let first = select(c % 2u == 0u, c < half, HALF);
    let pair = select(c / 2u, c % half, HALF);
    let step = select(1u, half, HALF);
    let angle = f32(load_positions(at_positions(i / row))) * load_frequencies(pair);
    let turn = cos_sin(angle);
    return Turn(select(i - step, i + step, first), first, round_q(turn.x), round_q(turn.y));
}

fn rotated_bits(i: u32) -> u32 {
    let t = turn_of(i, p.q_row);
    let a = round_q(load_q(at_q(i)) * t.cosine);
    let b = round_q(load_q(at_q(t.other)) * t.sine);
    return convert_bits(encode_q(select(a + b, a - b, t.first)), FROM, TO);
}

fn key_bits(i: u32) -> u32 {
    let t = turn_of(i, p.k_row);
    let a = round_k(load_k(at_k(i)) * t.cosine);
    let b = round_k(load_k(at_k(t.other)) * t.sine);
    return convert_bits(encode_k(select(a + b, a - b, t.first)), FROM, TO);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    var word = group_index(group, groups) * 256u + local;
    if (word < p.q_count / ROTATED_TOGETHER) {
        let first = word * ROTATED_TOGETHER;
        var bits: array<u32, ROTATED_LANES>;
        for (var n = 0u; n < ROTATED_TOGETHER; n++) {
            bits[n] = rotated_bits(first + n);
        }
        put_raw_lanes_rotated(at_rotated(first), bits, ROTATED_TOGETHER);
        return;
    }
    word -= p.q_count / ROTATED_TOGETHER;
    if (word < p.k_count / KEYS_TOGETHER) {
        let first = word * KEYS_TOGETHER;
        var bits: array<u32, KEYS_LANES>;
        for (var n = 0u; n < KEYS_TOGETHER; n++) {
            bits[n] = key_bits(first + n);
        }
        put_raw_lanes_keys(at_keys(first), bits, KEYS_TOGETHER);
        return;
    }
    word -= p.k_count / KEYS_TOGETHER;
    if (word < p.k_count / VALUES_TOGETHER) {
        let first = word * VALUES_TOGETHER;
        var bits: array<u32, VALUES_LANES>;
        for (var n = 0u; n < VALUES_TOGETHER; n++) {
            bits[n] = convert_bits(raw_v(at_v(first + n)), FROM, TO);
        }
        put_raw_lanes_values(at_values(first), bits, VALUES_TOGETHER);
    }
}
