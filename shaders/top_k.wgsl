// A few (p.k) of the largest of each row in descending order, a workgroup to a row: each pass finds the largest element that comes
// after the last one found, ordered by key and then by lower index.
#include "common/grid.wgsl"
#include "common/order.wgsl"
struct Params { x: View, rows: u32, n: u32, k: u32 }
#params
#bind read x
#view x
#bind write values: f32
#bind write indices: u32

var<workgroup> keys: array<u32, 256>;
var<workgroup> places: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = group_index(group, groups);
    if (row >= p.rows) {
        return;
    }
    var last_key = 0u;
    var last_place = 0u;
    for (var j = 0u; j < p.k; j++) {
        var best = 0u;
        var place = 0xffffffffu;
        for (var i = local; i < p.n; i += 256u) {
            let key = order_key(load_x(at_x(row * p.n + i)));
            let after = j == 0u || key < last_key || (key == last_key && i > last_place);
            if (after && (key > best || place == 0xffffffffu)) {
                best = key;
                place = i;
            }
        }
        keys[local] = best;
        places[local] = place;
        for (var half = 128u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if (local < half) {
                let key = keys[local + half];
                let other = places[local + half];
                // A place of none is the greatest.
                let mine = places[local];
                let none = mine == 0xffffffffu;
                if (other != 0xffffffffu && (none || key > keys[local] || (key == keys[local] && other < mine))) {
                    keys[local] = key;
                    places[local] = other;
                }
            }
        }
        workgroupBarrier();
        last_key = keys[0];
        last_place = places[0];
        workgroupBarrier();
        if (local == 0u) {
            put_indices(row * p.k + j, last_place);
            put_values(row * p.k + j, load_x(at_x(row * p.n + last_place)));
        }
    }
}
