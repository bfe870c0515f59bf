// The first p.k of each sorted row: their indices, and their values from x.
#include "common/grid.wgsl"
struct Params { x: View, count: u32, n: u32, k: u32, size: u32 }
#params
#bind read x
#view x
#bind read places: u32
#bind write values: f32
#bind write indices: u32

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = group_index(group, groups) * 256u + local;
    if (at >= p.count) {
        return;
    }
    let row = at / p.k;
    let place = load_places(row * p.size + at % p.k);
    put_indices(at, place);
    put_values(at, load_x(at_x(row * p.n + place)));
}
