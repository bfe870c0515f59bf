// y = factor · Σ over parts, in order, of a product that was cut along its inner dimension (common/parts.wgsl), with a
// bias to each column. `partial` is [p.parts, rows, p.n].
struct Params { count: u32, n: u32, parts: u32, bias_at: u32, bias_step: u32, factor: f32 }
#params
#bind read partial: f32
#bind read bias
#bind write y

fn value(i: u32) -> f32 {
    var sum = 0.0;
    for (var part = 0u; part < p.parts; part++) {
        sum += load_partial(part * p.count + i);
    }
    sum *= p.factor;
    if (BIAS_BOUND) {
        sum += load_bias(p.bias_at + i % p.n * p.bias_step);
    }
    return sum;
}
#include "common/elementwise.wgsl"
