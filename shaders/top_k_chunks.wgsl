// The first p.keep of every 1024 elements of each row, sorted: a workgroup to a chunk. The first launch (LOAD) takes a
// row's p.n elements from x, later ones the p.n keys and places that the launch before has kept of it.
#const LOAD = true
#include "common/grid.wgsl"
#include "common/order.wgsl"
#include "common/sort.wgsl"
struct Params { x: View, rows: u32, n: u32, chunks: u32, keep: u32 }
#params
#bind read x
#view x
#bind read old_keys: u32
#bind read old_places: u32
#bind write keys: u32
#bind write places: u32

var<workgroup> some_keys: array<u32, 1024>;
var<workgroup> some_places: array<u32, 1024>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let chunk = group_index(group, groups);
    if (chunk >= p.rows * p.chunks) {
        return;
    }
    let row = chunk / p.chunks;
    let first = chunk % p.chunks * 1024u;
    for (var t = local; t < 1024u; t += 256u) {
        // What pads comes after everything: no element has key 0.
        some_keys[t] = 0u;
        some_places[t] = 0xffffffffu;
        if (first + t < p.n) {
            let at = row * p.n + first + t;
            if (LOAD) {
                some_keys[t] = order_key(load_x(at_x(at)));
                some_places[t] = first + t;
            } else {
                some_keys[t] = load_old_keys(at);
                some_places[t] = load_old_places(at);
            }
        }
    }
    for (var stage = 2u; stage <= 1024u; stage *= 2u) {
        for (var step = stage / 2u; step > 0u; step /= 2u) {
            workgroupBarrier();
            for (var t = local; t < 512u; t += 256u) {
                let i = 2u * t - t % step;
                let j = i + step;
                let up = (i & stage) != 0u;
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
    for (var t = local; t < p.keep; t += 256u) {
        put_keys(chunk * p.keep + t, some_keys[t]);
        put_places(chunk * p.keep + t, some_places[t]);
    }
}
