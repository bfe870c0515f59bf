// p, and the momentum buffer b if there is one, after one step; TOGETHER as in adamw.wgsl.
#const TOGETHER = 1u
#include "common/grid.wgsl"
struct Params { w: View, b: View, g: View, count: u32, grad_scale: f32, weight_decay: f32, momentum: f32, minus_lr: f32 }
#params
#bind update w
#view w
#bind update b: f32
#view b
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
        let old = load_w(at_w(i));
        var step = load_g(at_g(i)) * p.grad_scale + p.weight_decay * old;
        if (B_BOUND) {
            let b = at_b(i);
            step += p.momentum * load_b(b);
            put_b(b, step);
        }
        next[k] = old + p.minus_lr * step;
    }
    put_lanes_w(at_w(first), next, TOGETHER);
}
