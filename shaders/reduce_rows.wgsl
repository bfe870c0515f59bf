// As reduce.wgsl with a workgroup to an output, or to one of p.parts parts of an output: then y is [outputs, parts] and
// is reduced again.
#include "common/fold.wgsl"
#include "common/view.wgsl"
#include "common/rows.wgsl"
struct Params { kept: View, reduced: View, count: u32, terms: u32, mean: u32, parts: u32, part_terms: u32 }
#params
#bind read x
#bind write y

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    here: Invocation,
) {
    let local = here.local;
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
            part = fold_take(part, load_x(base + term_place(s)));
        }
        total = fold_join(total, part);
    }
    var whole = 0.0;
    if (KIND == 2u) {
        // A NaN anywhere is the maximum.
        let bad = row_sum(here, select(0.0, 1.0, is_nan(total)));
        whole = select(row_max(here, total), nan(), bad > 0.0);
    } else {
        whole = row_sum(here, total);
    }
    if (local == 0u) {
        var v: array<f32, Y_LANES>;
        v[0] = whole;
        if (p.mean != 0u) {
            v[0] /= f32(p.terms);
        }
        put_lanes_y(at, v, 1u);
    }
}
