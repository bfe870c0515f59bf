// As attention.wgsl for few queries, as decoding has: a workgroup to one query of a head, which takes 256 keys at a time.
// Grid (queries, heads, batch). Heads have at most 256 elements.
#include "common/attention.wgsl"
#include "common/rows.wgsl"
#bind read q
#bind read k
#bind read v
#bind read mask: u8
#bind write y
#bind write lse: f32
// Invocations that go over the elements of a head; 256 / WIDTH of them share an element, each a part of the keys.
const WIDTH = CHUNKS * 32u;
const PARTS = 256u / WIDTH;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, here: Invocation) {
    let local = here.local;
    let b = group.z;
    let head = group.y;
    let kv = head / p.per_key;
    let i = group.x;
    if (local < p.d) {
        left[local] = load_q(place(p.q, b, i, head, local));
    }
    workgroupBarrier();
    let d = local % WIDTH;
    let part = local / WIDTH;
    var most = minus_infinity();
    var total = 0.0;
    var sum = 0.0;
    let end = seen_keys(i);
    for (var k0 = 0u; k0 < end; k0 += 256u) {
        let key = k0 + local;
        var s = minus_infinity();
        if (visible(b, i, key)) {
            var dot = 0.0;
            let at = place(p.k, b, key, kv, 0u);
            for (var e = 0u; e < p.d; e++) {
                dot += left[e] * load_k(at + e * p.k.step);
            }
            s = dot * p.scale;
        }
        let best = row_max(here, s);
        let before = most;
        most = select(most, best, best > most);
        let weight = select(exp_(s - most), 0.0, is_minus_infinity(s));
        scores[local] = weight;
        let fade = select(exp_(before - most), 0.0, is_minus_infinity(before));
        // Its barriers also make the weights visible.
        total = total * fade + row_sum(here, weight);
        sum *= fade;
        if (d < p.d && part < PARTS) {
            for (var j = part; j < min(256u, end - k0); j += PARTS) {
                sum += scores[j] * load_v(place(p.v, b, k0 + j, kv, d));
            }
        }
    }
    workgroupBarrier();
    right[local] = sum;
    workgroupBarrier();
    if (local == 0u) {
        put_lse((b * p.heads + head) * p.sq + i, select(most + ln_(total), minus_infinity(), total == 0.0));
    }
    let by = select(1.0 / total, 0.0, total == 0.0);
    let first = local * Y_LANES;
    if (first < p.d) {
        let n = min(Y_LANES, p.d - first);
        var w: array<f32, Y_LANES>;
        for (var l = 0u; l < n; l++) {
            var x = 0.0;
            for (var r = 0u; r < PARTS; r++) {
                x += right[r * WIDTH + first + l];
            }
            w[l] = x * by;
        }
        put_lanes_y(((b * p.sq + i) * p.heads + head) * p.d + first, w, n);
    }
}
