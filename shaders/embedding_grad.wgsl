// Sums the rows of g with one id into that id's row of y, which is zero before. A workgroup to a place of ids: the first
// place of an id adds up all of them in order, so no order of execution shows.
#include "common/grid.wgsl"
struct Params { ids: View, g: View, places: u32, n: u32, rows: u32, launch: u32 }
#params
#bind read ids: u32
#view ids
#bind read g
#view g
#bind write y
#fault

var<workgroup> earlier: atomic<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let place = group_index(group, groups);
    if (place >= p.places) {
        return;
    }
    let id = load_ids(at_ids(place));
    if (local == 0u) {
        atomicStore(&earlier, 0u);
    }
    workgroupBarrier();
    for (var j = local; j < place; j += 256u) {
        if (load_ids(at_ids(j)) == id) {
            atomicOr(&earlier, 1u);
        }
    }
    workgroupBarrier();
    if (atomicLoad(&earlier) != 0u) {
        return;
    }
    if (id >= p.rows) {
        if (local == 0u) {
            fault(id, place);
        }
        return;
    }
    for (var i = local * Y_LANES; i < p.n; i += 256u * Y_LANES) {
        let n = min(Y_LANES, p.n - i);
        var v: array<f32, Y_LANES>;
        for (var j = place; j < p.places; j++) {
            if (load_ids(at_ids(j)) == id) {
                for (var k = 0u; k < n; k++) {
                    v[k] += load_g(at_g(j * p.n + i + k));
                }
            }
        }
        put_lanes_y(id * p.n + i, v, n);
    }
}
