// y = f(x); KIND numbers `UnaryKind`.
#const KIND = 0u
#include "common/math.wgsl"
struct Params { x: View, count: u32 }
#params
#bind read x
#view x
#bind write y

fn value(i: u32) -> f32 {
    let x = load_x(at_x(i));
    switch KIND {
        case 0u: { return exp_(x); }
        case 1u: { return ln_(x); }
        case 2u: { return sqrt(x); }
        case 3u: { return tanh_(x); }
        case 4u: { return sigmoid_(x); }
        // NaN stays.
        case 5u: { return select(x, 0.0, x < 0.0); }
        default: { return select(0.0, 1.0, x > 0.0); }
    }
}
#include "common/elementwise.wgsl"
