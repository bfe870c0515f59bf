// source[index[j]] = j + 1: which replacement each row takes; `source` is zero before.
#include "common/grid.wgsl"
struct Params { index: View, count: u32, rows: u32, launch: u32, twice: u32 }
#params
#bind read index: u32
#view index
#bind write source: u32
#fault

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let j = group_index(group, groups) * 256u + local;
    if (j >= p.count) {
        return;
    }
    let row = load_index(at_index(j));
    if (row >= p.rows) {
        fault(row, j);
        return;
    }
    // An index that an earlier place has too.
    for (var i = 0u; i < j; i++) {
        if (load_index(at_index(i)) == row) {
            fault_as(p.twice, row, j);
            return;
        }
    }
    put_source(row, j + 1u);
}
