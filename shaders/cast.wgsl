// y = convert(x), to row-major order.
#const FROM = 0u
#const TO = 0u
#include "common/convert.wgsl"
#include "common/grid.wgsl"
struct Params { x: View, count: u32 }
#params
#bind read x
#view x
#bind write y

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
    var bits: array<u32, Y_LANES>;
    for (var k = 0u; k < n; k++) {
        bits[k] = convert_bits(raw_x(at_x(first + k)), FROM, TO);
    }
    put_raw_lanes_y(first, bits, n);
}
