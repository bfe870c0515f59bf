// y = gelu(x); KIND: the tanh form, the erf form.
#const KIND = 0u
#include "common/gelu.wgsl"
struct Params { x: View, count: u32 }
#params
#bind read x
#view x
#bind write y

fn value(i: u32) -> f32 {
    let x = load_x(at_x(i));
    if (KIND == 0u) {
        return x * tanh_gate(x);
    }
    return x * erf_gate(x);
}
#include "common/elementwise.wgsl"
