// p, m, v after one step. TOGETHER elements of p lie in one word that holds nothing else, or elements go one by one.
#const TOGETHER = 1u
#include "common/adamw.wgsl"
#include "common/grid.wgsl"
// Not named p: that is the parameters.
struct Params { w: View, m: View, v: View, g: View, f: Factors, count: u32 }
#params
#bind update w
#view w
#bind update m: f32
#view m
#bind update v: f32
#view v
#bind read g
#view g

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group_index(group, groups) * 256u + local) * TOGETHER;
    if (first >= p.count) {
        return;
    }
    var next: array<f32, W_LANES>;
    for (var k = 0u; k < TOGETHER; k++) {
        let i = first + k;
        let g = load_g(at_g(i)) * p.f.grad_scale;
        let m = at_m(i);
        let v = at_v(i);
        let s = adamw_step(p.f, load_w(at_w(i)), load_m(m), load_v(v), g);
        put_m(m, s.m);
        put_v(v, s.v);
        next[k] = s.p;
    }
    put_lanes_w(at_w(first), next, TOGETHER);
}
