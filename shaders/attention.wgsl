// out = softmax(scale·Q·Kᵀ + mask)·V with the online softmax of Dao 2023 (arXiv 2307.08691), and the logarithm of each
// row's sum. A workgroup to 32 queries of a head: grid (query tiles, heads, batch).
#include "common/attention.wgsl"
#bind read q
#bind read k
#bind read v
#bind read mask: u8
#bind write y
#bind write lse: f32

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let b = group.z;
    let head = group.y;
    let kv = head / p.per_key;
    let first = group.x * 32u;
    let row = local / 8u;
    let lane = local % 8u;
    var sums = array<f32, 4u * CHUNKS>();
    var most = minus_infinity();
    var total = 0.0;
    let end = seen_keys(min(first + 31u, p.sq - 1u));
    for (var k0 = 0u; k0 < end; k0 += 32u) {
        var s = vec4<f32>();
        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
            for (var t = local; t < 1024u; t += 256u) {
                let r = t / 32u;
                let d = c * 32u + t % 32u;
                var q = 0.0;
                var k = 0.0;
                if (d < p.d && first + r < p.sq) {
                    q = load_q(place(p.q, b, first + r, head, d));
                }
                if (d < p.d && k0 + r < p.sk) {
                    k = load_k(place(p.k, b, k0 + r, kv, d));
                }
                left[r * PITCH + t % 32u] = q;
                right[r * PITCH + t % 32u] = k;
            }
            workgroupBarrier();
            for (var d = 0u; d < 32u; d++) {
                let at = lane * PITCH + d;
                s += left[row * PITCH + d]
                    * vec4<f32>(right[at], right[at + 8u * PITCH], right[at + 16u * PITCH], right[at + 24u * PITCH]);
            }
        }
        for (var u = 0u; u < 4u; u++) {
            let key = k0 + lane + 8u * u;
            s[u] = select(minus_infinity(), s[u] * p.scale, visible(b, first + row, key));
            scores[row * PITCH + lane + 8u * u] = s[u];
        }
        workgroupBarrier();
        let before = most;
        for (var j = 0u; j < 32u; j++) {
            let x = scores[row * PITCH + j];
            most = select(most, x, x > most || is_nan(x));
        }
        workgroupBarrier();
        for (var u = 0u; u < 4u; u++) {
            scores[row * PITCH + lane + 8u * u] = select(exp_(s[u] - most), 0.0, is_minus_infinity(s[u]));
        }
        workgroupBarrier();
        let fade = select(exp_(before - most), 0.0, is_minus_infinity(before));
        total *= fade;
        for (var j = 0u; j < 32u; j++) {
            total += scores[row * PITCH + j];
        }
        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
            for (var t = local; t < 1024u; t += 256u) {
                let r = t / 32u;
                let d = c * 32u + t % 32u;
                var v = 0.0;
                if (d < p.d && k0 + r < p.sk) {
                    v = load_v(place(p.v, b, k0 + r, kv, d));
                }
                right[r * PITCH + t % 32u] = v;
            }
            workgroupBarrier();
            var o = fade * vec4<f32>(sums[4u * c], sums[4u * c + 1u], sums[4u * c + 2u], sums[4u * c + 3u]);
            for (var j = 0u; j < 32u; j++) {
                let at = j * PITCH + lane;
                o += scores[row * PITCH + j] * vec4<f32>(right[at], right[at + 8u], right[at + 16u], right[at + 24u]);
            }
            for (var u = 0u; u < 4u; u++) {
                sums[4u * c + u] = o[u];
            }
        }
    }
    let i = first + row;
    if (lane == 0u && i < p.sq) {
        put_lse((b * p.heads + head) * p.sq + i, select(most + ln_(total), minus_infinity(), total == 0.0));
    }
    let by = select(1.0 / total, 0.0, total == 0.0);
    for (var c = 0u; c < CHUNKS; c++) {
        workgroupBarrier();
        for (var u = 0u; u < 4u; u++) {
            left[row * PITCH + lane + 8u * u] = sums[4u * c + u] * by;
        }
        workgroupBarrier();
        for (var t = local * Y_LANES; t < 1024u; t += 256u * Y_LANES) {
            let r = t / 32u;
            let d = c * 32u + t % 32u;
            if (first + r < p.sq && d < p.d) {
                let n = min(Y_LANES, p.d - d);
                var w: array<f32, Y_LANES>;
                for (var l = 0u; l < n; l++) {
                    w[l] = left[r * PITCH + t % 32u + l];
                }
                put_lanes_y(((b * p.sq + first + r) * p.heads + head) * p.d + d, w, n);
            }
        }
    }
}
