// y = mul·x + add
struct Params { x: View, count: u32, mul: f32, add: f32 }
#params
#bind read x
#view x
#bind write y

fn value(i: u32) -> f32 {
    return p.mul * load_x(at_x(i)) + p.add;
}
#include "common/elementwise.wgsl"
