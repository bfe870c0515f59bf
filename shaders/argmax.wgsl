// Index of the largest element of each row, a workgroup to a row; the lowest among equals, NaN above all.
#include "common/grid.wgsl"
#include "common/order.wgsl"
struct Params { x: View, rows: u32, n: u32 }
#params
#bind read x
#view x
#bind write y: u32

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
    var best = 0u;
    var place = 0xffffffffu;
    for (var i = local; i < p.n; i += 256u) {
        let key = order_key(load_x(at_x(row * p.n + i)));
        if (key > best || place == 0xffffffffu) {
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
            if (key > keys[local] || (key == keys[local] && other < places[local])) {
                keys[local] = key;
                places[local] = other;
            }
        }
    }
    if (local == 0u) {
        put_y(row, places[0]);
    }
}
