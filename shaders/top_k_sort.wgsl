// Sorts a row's keys and places, padded to p.size, a power of two of at least 1024: the steps of the network that stay
// within 1024 elements, a workgroup to these. The first launch (LOAD) takes them from x and does all stages up to 1024;
// later ones end stage p.stage, which top_k_merge.wgsl began.
#const LOAD = true
#include "common/grid.wgsl"
#include "common/order.wgsl"
#include "common/sort.wgsl"
struct Params { x: View, rows: u32, n: u32, size: u32, stage: u32 }
#params
#bind read x
#view x
#bind update keys: u32
#bind update places: u32

var<workgroup> some_keys: array<u32, 1024>;
var<workgroup> some_places: array<u32, 1024>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = group_index(group, groups) * 1024u;
    if (first >= p.rows * p.size) {
        return;
    }
    let row = first / p.size;
    for (var t = local; t < 1024u; t += 256u) {
        if (LOAD) {
            // What pads comes after everything: no element has key 0.
            let i = first % p.size + t;
            some_keys[t] = 0u;
            some_places[t] = 0xffffffffu;
            if (i < p.n) {
                some_keys[t] = order_key(load_x(at_x(row * p.n + i)));
                some_places[t] = i;
            }
        } else {
            some_keys[t] = load_keys(first + t);
            some_places[t] = load_places(first + t);
        }
    }
    for (var stage = select(p.stage, 2u, LOAD); stage <= p.stage; stage *= 2u) {
        for (var step = min(stage / 2u, 512u); step > 0u; step /= 2u) {
            workgroupBarrier();
            for (var t = local; t < 512u; t += 256u) {
                let i = 2u * t - t % step;
                let j = i + step;
                let up = ((first % p.size + i) & stage) != 0u;
                if (out_of_order(some_keys[i], some_places[i], some_keys[j], some_places[j], up)) {
                    let key = some_keys[i];
                    let place = some_places[i];
                    some_keys[i] = some_keys[j];
                    some_places[i] = some_places[j];
                    some_keys[j] = key;
                    some_places[j] = place;
                }
            }
        }
    }
    workgroupBarrier();
    for (var t = local; t < 1024u; t += 256u) {
        put_keys(first + t, some_keys[t]);
        put_places(first + t, some_places[t]);
    }
}
