// y[i] = table[ids[i]]. The table's rows p.low .. p.low + p.rows are bound; words of other rows are left to other
// launches if there are any (PART).
#const PART = false
#include "common/grid.wgsl"
struct Params { ids: View, count: u32, n: u32, low: u32, rows: u32, all: u32, table_at: u32, down: u32, step: u32, launch: u32 }
#params
#bind read table
#bind read ids: u32
#view ids
#bind write y
#fault

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
        let place = (first + k) / p.n;
        let column = (first + k) - place * p.n;
        let id = load_ids(at_ids(place));
        if (id >= p.all) {
            fault(id, place);
        } else if (id >= p.low && id - p.low < p.rows) {
            bits[k] = raw_table(p.table_at + (id - p.low) * p.down + column * p.step);
        } else if (PART) {
            return;
        }
    }
    put_raw_lanes_y(first, bits, n);
}
