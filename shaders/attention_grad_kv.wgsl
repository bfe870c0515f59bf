// dk = scale·dSᵀ·Q and dv = Pᵀ·g, summed over the query heads that share a key head in order. A workgroup to 32 keys of a
// key head: grid (key tiles, key heads, batch). Here rows of a tile are keys and columns queries.
#include "common/attention.wgsl"
#bind read q
#bind read k
#bind read v
#bind read g
#bind read stats: f32
#bind read mask: u8
#bind write dk
#bind write dv

// sums += scores · right, one chunk.
fn take(sums: vec4<f32>, row: u32, lane: u32) -> vec4<f32> {
    var o = sums;
    for (var j = 0u; j < 32u; j++) {
        let at = j * PITCH + lane;
        o += scores[row * PITCH + j] * vec4<f32>(right[at], right[at + 8u], right[at + 16u], right[at + 24u]);
    }
    return o;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let b = group.z;
    let kv = group.y;
    let first = group.x * 32u;
    let row = local / 8u;
    let lane = local % 8u;
    var k_sums = array<vec4<f32>, CHUNKS>();
    var v_sums = array<vec4<f32>, CHUNKS>();
    // Queries before the first that sees a key of this tile.
    var start = 0u;
    if (CAUSAL) {
        start = u32(max(i32(first) + i32(p.sq) - i32(p.sk), 0)) / 32u * 32u;
    }
    for (var h = 0u; h < p.per_key; h++) {
        let head = kv * p.per_key + h;
        for (var i0 = start; i0 < p.sq; i0 += 32u) {
            var s = vec4<f32>();
            var slope = vec4<f32>();
            // Chunks of K and Q, then of V and g.
            for (var c = 0u; c < 2u * CHUNKS; c++) {
                let second = c >= CHUNKS;
                let d0 = (c % CHUNKS) * 32u;
                workgroupBarrier();
                for (var t = local; t < 1024u; t += 256u) {
                    let r = t / 32u;
                    let d = d0 + t % 32u;
                    var x = 0.0;
                    var z = 0.0;
                    if (d < p.d && first + r < p.sk) {
                        if (second) {
                            x = load_v(place(p.v, b, first + r, kv, d));
                        } else {
                            x = load_k(place(p.k, b, first + r, kv, d));
                        }
                    }
                    if (d < p.d && i0 + r < p.sq) {
                        if (second) {
                            z = load_g(place(p.g, b, i0 + r, head, d));
                        } else {
                            z = load_q(place(p.q, b, i0 + r, head, d));
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
                let i = i0 + lane + 8u * u;
                var weight = 0.0;
                var delta = 0.0;
                if (visible(b, i, first + row)) {
                    let at = 2u * ((b * p.heads + head) * p.sq + i);
                    let lse = load_stats(at);
                    delta = load_stats(at + 1u);
                    weight = select(exp_(s[u] * p.scale - lse), 0.0, is_minus_infinity(lse));
                }
                scores[row * PITCH + lane + 8u * u] = weight;
                slope[u] = weight * (slope[u] - delta);
            }
            // dv takes P and g, then dk takes dS and Q.
            for (var c = 0u; c < 2u * CHUNKS; c++) {
                let second = c >= CHUNKS;
                let d0 = (c % CHUNKS) * 32u;
                workgroupBarrier();
                if (c == CHUNKS) {
                    for (var u = 0u; u < 4u; u++) {
                        scores[row * PITCH + lane + 8u * u] = slope[u];
                    }
                }
                for (var t = local; t < 1024u; t += 256u) {
                    let r = t / 32u;
                    let d = d0 + t % 32u;
                    var z = 0.0;
                    if (d < p.d && i0 + r < p.sq) {
                        if (second) {
                            z = load_q(place(p.q, b, i0 + r, head, d));
                        } else {
                            z = load_g(place(p.g, b, i0 + r, head, d));
                        }
                    }
                    right[r * PITCH + t % 32u] = z;
                }
                workgroupBarrier();
                if (second) {
                    k_sums[c % CHUNKS] = take(k_sums[c % CHUNKS], row, lane);
                } else {
                    v_sums[c % CHUNKS] = take(v_sums[c % CHUNKS], row, lane);
                }
            }
        }
    }
    let key_heads = p.heads / p.per_key;
    for (var c = 0u; c < CHUNKS; c++) {
        workgroupBarrier();
        for (var u = 0u; u < 4u; u++) {
            left[row * PITCH + lane + 8u * u] = k_sums[c][u] * p.scale;
            right[row * PITCH + lane + 8u * u] = v_sums[c][u];
        }
        workgroupBarrier();
        for (var t = local * DK_LANES; t < 1024u; t += 256u * DK_LANES) {
            let r = t / 32u;
            let d = c * 32u + t % 32u;
            if (first + r < p.sk && d < p.d) {
                let n = min(DK_LANES, p.d - d);
                var x: array<f32, DK_LANES>;
                var z: array<f32, DK_LANES>;
                for (var l = 0u; l < n; l++) {
                    x[l] = left[r * PITCH + t % 32u + l];
                    z[l] = right[r * PITCH + t % 32u + l];
                }
                let at = ((b * p.sk + first + r) * key_heads + kv) * p.d + d;
                put_lanes_dk(at, x, n);
                put_lanes_dv(at, z, n);
            }
        }
    }
}
