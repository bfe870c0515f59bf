// y[i] = value(i) for i < p.count. The kernel defines `value` and binds a fresh output y.
#include "common/grid.wgsl"

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group_index(group, groups) * 256u + local) * Y_LANES;
    if (first >= p.count) {
        return;
    }
    let n = min(Y_LANES, p.count - first);
    var v: array<f32, Y_LANES>;
    for (var k = 0u; k < n; k++) {
        v[k] = value(first + k);
    }
    put_lanes_y(first, v, n);
}
