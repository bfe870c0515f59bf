// y = x·scale where element i is kept, else 0.
#include "common/dropout.wgsl"
struct Params { x: View, count: u32, low: u32, high: u32, threshold: u32, scale: f32 }
#params
#bind read x
#view x
#bind write y

fn value(i: u32) -> f32 {
    return select(0.0, load_x(at_x(i)) * p.scale, dropout_keeps(i, p.low, p.high, p.threshold));
}
#include "common/elementwise.wgsl"
