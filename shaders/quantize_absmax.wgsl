// y[b] = the largest magnitude of block b; a NaN shows.
struct Params { x: View, count: u32, elements: u32, block: u32 }
#params
#bind read x
#view x
#bind write y: f32

fn value(b: u32) -> f32 {
    var most = 0.0;
    for (var i = b * p.block; i < min((b + 1u) * p.block, p.elements); i++) {
        let x = abs(load_x(at_x(i)));
        most = select(most, x, x > most || is_nan(x));
    }
    return most;
}
#include "common/elementwise.wgsl"
