// y = g · gelu′(x); KIND as in gelu.wgsl.
#const KIND = 0u
#include "common/gelu.wgsl"
struct Params { x: View, g: View, count: u32 }
#params
#bind read x
#view x
#bind read g
#view g
#bind write y

fn value(i: u32) -> f32 {
    let x = load_x(at_x(i));
    let g = load_g(at_g(i));
    if (KIND == 0u) {
        let s = tanh_gate(x);
        let slope = TWICE_SQRT_2_PI * (1.0 + 3.0 * CUBE * x * x);
        // Beyond ±10 the second term is 0 in f32, but x·slope could overflow.
        let bend = x * s * (1.0 - s) * slope;
        return g * (s + select(bend, 0.0, abs(x) > 10.0));
    }
    let bend = x * DENSITY * exp_(-0.5 * x * x);
    return g * (erf_gate(x) + select(bend, 0.0, abs(x) > 15.0));
}
#include "common/elementwise.wgsl"
