// y[o] = fold over r of x(o, r), divided by p.divide (0: not): an invocation to an output. For many outputs, or few terms.
#include "common/fold.wgsl"
#include "common/view.wgsl"
struct Params { kept: View, reduced: View, count: u32, terms: u32, mean: u32 }
#params
#bind read x
#bind write y

fn value(o: u32) -> f32 {
    let base = place_in(p.kept, o);
    var total = fold_start();
    for (var r = 0u; r < p.terms; r += BLOCK) {
        var part = fold_start();
        for (var s = r; s < min(r + BLOCK, p.terms); s++) {
            part = fold_take(part, load_x(base + term_place(s)));
        }
        total = fold_join(total, part);
    }
    if (p.mean == 0u) {
        return total;
    }
    if (p.terms == 0u) {
        return nan();
    }
    return total / f32(p.terms);
}
#include "common/elementwise.wgsl"
