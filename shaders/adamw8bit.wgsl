// One step of AdamW with moments of 8 bits: a workgroup to a block of 256 elements. `tables` has both maps, 256 values
// each in rising order, the signed one first.
#include "common/adamw.wgsl"
#include "common/grid.wgsl"
struct Params { w: View, m: View, v: View, absmax_m: View, absmax_v: View, g: View, f: Factors, count: u32 }
#params
#bind update w
#view w
#bind update m: u8
#view m
#bind update v: u8
#view v
#bind update absmax_m: f32
#view absmax_m
#bind update absmax_v: f32
#view absmax_v
#bind read g
#view g
#bind read tables: f32

var<workgroup> params_next: array<f32, 256>;
var<workgroup> m_next: array<u32, 256>;
var<workgroup> v_next: array<u32, 256>;
var<workgroup> most: array<vec2<f32>, 256>;

// The code of the value nearest to x, ties the lower: how many midpoints lie below x.
fn nearest(map: u32, x: f32) -> u32 {
    var low = 0u;
    var high = 255u;
    while (low < high) {
        let mid = (low + high) / 2u;
        if (x > (load_tables(map + mid) + load_tables(map + mid + 1u)) * 0.5) {
            low = mid + 1u;
        } else {
            high = mid;
        }
    }
    return low;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let block = group_index(group, groups);
    if (block * 256u >= p.count) {
        return;
    }
    let i = block * 256u + local;
    let there = i < p.count;
    var m = 0.0;
    var v = 0.0;
    if (there) {
        let old = load_w(at_w(i));
        let g = load_g(at_g(i)) * p.f.grad_scale;
        m = load_tables(load_m(at_m(i))) * load_absmax_m(at_absmax_m(block));
        v = load_tables(256u + load_v(at_v(i))) * load_absmax_v(at_absmax_v(block));
        let s = adamw_step(p.f, old, m, v, g);
        let sound = is_finite(g * g);
        params_next[local] = select(old, s.p, sound);
        m = select(0.0, s.m, sound);
        v = select(0.0, s.v, sound);
    }
    most[local] = vec2<f32>(abs(m), abs(v));
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            let other = most[local + half];
            let mine = most[local];
            most[local] = select(mine, other, other > mine);
        }
    }
    workgroupBarrier();
    let largest = most[0];
    // A block of zeros is 0 whatever it is divided by.
    let by = select(vec2<f32>(1.0), largest, largest > vec2<f32>());
    m_next[local] = nearest(0u, m / by.x);
    v_next[local] = nearest(256u, v / by.y);
    workgroupBarrier();
    if (local == 0u) {
        put_absmax_m(at_absmax_m(block), largest.x);
        put_absmax_v(at_absmax_v(block), largest.y);
    }
    let end = min(256u, p.count - block * 256u);
    let quad = local * 4u;
    if (quad < end) {
        let n = min(4u, end - quad);
        var codes_m: array<u32, 4>;
        var codes_v: array<u32, 4>;
        for (var k = 0u; k < n; k++) {
            codes_m[k] = m_next[quad + k];
            codes_v[k] = v_next[quad + k];
        }
        put_raw_lanes_m(at_m(block * 256u + quad), codes_m, n);
        put_raw_lanes_v(at_v(block * 256u + quad), codes_v, n);
    }
    let word = local * W_LANES;
    if (word < end) {
        let n = min(W_LANES, end - word);
        var next: array<f32, W_LANES>;
        for (var k = 0u; k < n; k++) {
            next[k] = params_next[word + k];
        }
        put_lanes_w(at_w(block * 256u + word), next, n);
    }
}
