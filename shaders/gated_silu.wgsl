// y = silu(gate) · up
#include "common/math.wgsl"
struct Params { gate: View, up: View, count: u32 }
#params
#bind read gate
#view gate
#bind read up
#view up
#bind write y

fn value(i: u32) -> f32 {
    let x = load_gate(at_gate(i));
    return x * sigmoid_(x) * load_up(at_up(i));
}
#include "common/elementwise.wgsl"
