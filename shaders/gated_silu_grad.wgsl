// dgate = g·up·silu′(gate), dup = g·silu(gate)
#include "common/math.wgsl"
#include "common/grid.wgsl"
struct Params { gate: View, up: View, g: View, count: u32 }
#params
#bind read gate
#view gate
#bind read up
#view up
#bind read g
#view g
#bind write dgate
#bind write dup

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group_index(group, groups) * 256u + local) * DGATE_LANES;
    if (first >= p.count) {
        return;
    }
    let n = min(DGATE_LANES, p.count - first);
    var a: array<f32, DGATE_LANES>;
    var b: array<f32, DGATE_LANES>;
    for (var k = 0u; k < n; k++) {
        let i = first + k;
        let x = load_gate(at_gate(i));
        let g = load_g(at_g(i));
        let s = sigmoid_(x);
        a[k] = g * load_up(at_up(i)) * (s + x * s * (1.0 - s));
        b[k] = g * (x * s);
    }
    put_lanes_dgate(first, a, n);
    put_lanes_dup(first, b, n);
}
