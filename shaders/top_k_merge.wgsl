// A step of stage p.stage between elements p.step apart, 1024 or more: an invocation to a pair.
#include "common/grid.wgsl"
#include "common/sort.wgsl"
struct Params { pairs: u32, size: u32, stage: u32, step: u32 }
#params
#bind update keys: u32
#bind update places: u32

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let t = group_index(group, groups) * 256u + local;
    if (t >= p.pairs) {
        return;
    }
    let i = 2u * t - t % p.step;
    let j = i + p.step;
    let up = ((i % p.size) & p.stage) != 0u;
    let key = load_keys(i);
    let place = load_places(i);
    let other_key = load_keys(j);
    let other_place = load_places(j);
    if (out_of_order(key, place, other_key, other_place, up)) {
        put_keys(i, other_key);
        put_places(i, other_place);
        put_keys(j, key);
        put_places(j, place);
    }
}
