// y = convert(x) into a view of an existing tensor. TOGETHER elements of y lie in one word that holds nothing else, or
// elements go one by one.
#const FROM = 0u
#const TO = 0u
#const TOGETHER = 1u
#include "common/convert.wgsl"
#include "common/grid.wgsl"
struct Params { x: View, y: View, count: u32 }
#params
#bind read x
#view x
#bind update y
#view y

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
    var bits: array<u32, Y_LANES>;
    for (var k = 0u; k < TOGETHER; k++) {
        bits[k] = convert_bits(raw_x(at_x(first + k)), FROM, TO);
    }
    put_raw_lanes_y(at_y(first), bits, TOGETHER);
}
