// y[r] = rows[source[r] − 1] where source[r] is not 0, else base[r].
#include "common/grid.wgsl"
struct Params { base: View, rows: View, count: u32, n: u32 }
#params
#bind read base
#view base
#bind read rows
#view rows
#bind read source: u32
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
        let i = first + k;
        let row = i / p.n;
        let source = load_source(row);
        if (source == 0u) {
            bits[k] = raw_base(at_base(i));
        } else {
            bits[k] = raw_rows(at_rows((source - 1u) * p.n + (i - row * p.n)));
        }
    }
    put_raw_lanes_y(first, bits, n);
}
