// As reduce.wgsl with a workgroup to an output, or to one of p.parts parts of an output: then y is [outputs, parts] and
// is reduced again.
#include "common/fold.wgsl"
#include "common/view.wgsl"
#include "common/grid.wgsl"
struct Params { kept: View, reduced: View, count: u32, terms: u32, mean: u32, parts: u32, part_terms: u32 }
#params
#bind read x
#bind write y

var<workgroup> scratch: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = group_index(group, groups);
    if (at >= p.count * p.parts) {
        return;
    }
    let base = place_in(p.kept, at / p.parts);
    let first = (at % p.parts) * p.part_terms;
    let end = min(first + p.part_terms, p.terms);
    var total = fold_start();
    for (var r = first + local; r < end; r += BLOCK * 256u) {
        var part = fold_start();
        for (var s = r; s < min(r + BLOCK * 256u, end); s += 256u) {
            part = fold_take(part, load_x(base + place_in(p.reduced, s)));
        }
        total = fold_join(total, part);
    }
    scratch[local] = total;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            scratch[local] = fold_join(scratch[local], scratch[local + half]);
        }
    }
    if (local == 0u) {
        var v: array<f32, Y_LANES>;
        v[0] = scratch[0];
        if (p.mean != 0u) {
            v[0] /= f32(p.terms);
        }
        put_lanes_y(at, v, 1u);
    }
}
