// dq = scale·dS·K, dS = P∘(g·Vᵀ − Σ g·out), P = exp(scale·Q·Kᵀ − lse) computed again. A workgroup to 32 queries of a head:
// grid (query tiles, heads, batch).
#include "common/attention.wgsl"
#bind read q
#bind read k
#bind read v
#bind read g
#bind read stats: f32
#bind read mask: u8
#bind write y

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let b = group.z;
    let head = group.y;
    let kv = head / p.per_key;
    let first = group.x * 32u;
    let row = local / 8u;
    let lane = local % 8u;
    let i = first + row;
    var lse = minus_infinity();
    var delta = 0.0;
    if (i < p.sq) {
        let at = 2u * ((b * p.heads + head) * p.sq + i);
        lse = load_stats(at);
        delta = load_stats(at + 1u);
    }
    var sums = array<f32, 4u * CHUNKS>();
    let end = seen_keys(min(first + 31u, p.sq - 1u));
    for (var k0 = 0u; k0 < end; k0 += 32u) {
        var s = vec4<f32>();
        var slope = vec4<f32>();
        // Chunks of Q and K, then of g and V.
        for (var c = 0u; c < 2u * CHUNKS; c++) {
            let second = c >= CHUNKS;
            let d0 = (c % CHUNKS) * 32u;
            workgroupBarrier();
            for (var t = local; t < 1024u; t += 256u) {
                let r = t / 32u;
                let d = d0 + t % 32u;
                var x = 0.0;
                var z = 0.0;
                if (d < p.d && first + r < p.sq) {
                    if (second) {
                        x = load_g(place(p.g, b, first + r, head, d));
                    } else {
                        x = load_q(place(p.q, b, first + r, head, d));
                    }
                }
                if (d < p.d && k0 + r < p.sk) {
                    if (second) {
                        z = load_v(place(p.v, b, k0 + r, kv, d));
                    } else {
                        z = load_k(place(p.k, b, k0 + r, kv, d));
                    }
                }
                left[r * PITCH + t % 32u] = x;
                right[r * PITCH + t % 32u] = z;
            }
            workgroupBarrier();
            var sum = vec4<f32>();
            for (var d = 0u; d < 32u; d++) {
                let at = lane * PITCH + d;
                sum += left[row * PITCH + d]
                    * vec4<f32>(right[at], right[at + 8u * PITCH], right[at + 16u * PITCH], right[at + 24u * PITCH]);
            }
            if (second) {
                slope += sum;
            } else {
                s += sum;
            }
        }
        for (var u = 0u; u < 4u; u++) {
            let seen = visible(b, i, k0 + lane + 8u * u) && !is_minus_infinity(lse);
            let weight = select(0.0, exp_(s[u] * p.scale - lse), seen);
            scores[row * PITCH + lane + 8u * u] = weight * (slope[u] - delta);
        }
        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
            for (var t = local; t < 1024u; t += 256u) {
                let r = t / 32u;
                let d = c * 32u + t % 32u;
                var k = 0.0;
                if (d < p.d && k0 + r < p.sk) {
                    k = load_k(place(p.k, b, k0 + r, kv, d));
                }
                right[r * PITCH + t % 32u] = k;
            }
            workgroupBarrier();
            for (var j = 0u; j < 32u; j++) {
                let w = scores[row * PITCH + j];
                for (var u = 0u; u < 4u; u++) {
                    sums[4u * c + u] += w * right[j * PITCH + lane + 8u * u];
                }
            }
        }
    }
    for (var c = 0u; c < CHUNKS; c++) {
        workgroupBarrier();
        for (var u = 0u; u < 4u; u++) {
            left[row * PITCH + lane + 8u * u] = sums[4u * c + u] * p.scale;
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
