// What a device can do at most (engine/src/ops/burst.rs), on f32. KIND 0 and 1: p.repeats multiply-adds, a multiple of 16, on each
// of eight sums; there is no product of bf16 matrices in WGSL, so 1 is 0 with other factors. 2: p.repeats elements, p.count apart, summed. 3: x + 3·c.
#const KIND = 0
struct Params { x: View, c: View, count: u32, repeats: u32, half: f32, sixteenth: f32 }
#params
#bind read x
#view x
#bind read c
#view c
#bind write y

fn value(i: u32) -> f32 {
    if (KIND == 3) {
        return load_x(at_x(i)) + 3.0 * load_c(at_c(i));
    }
    if (KIND == 2) {
        var sums = vec4<f32>();
        var k = 0u;
        for (; k + 4u <= p.repeats; k += 4u) {
#repeat u 4
            sums[$u] += load_x(at_x(i + (k + $uu) * p.count));
#end
        }
        for (; k < p.repeats; k++) {
            sums[0] += load_x(at_x(i + k * p.count));
        }
        return (sums.x + sums.y) + (sums.z + sums.w);
    }
    var s = vec4<f32>(load_x(at_x(i)));
    var t = s;
    for (var k = 0u; k < p.repeats; k += 16u) {
        if (KIND == 0) {
#repeat u 16
            s = fma(s, vec4<f32>(p.half), vec4<f32>(p.half));
            t = fma(t, vec4<f32>(p.half), vec4<f32>(p.half));
#end
        } else {
#repeat u 16
            s = fma(vec4<f32>(p.sixteenth), vec4<f32>(p.sixteenth), s);
            t = fma(vec4<f32>(p.sixteenth), vec4<f32>(p.sixteenth), t);
#end
        }
    }
    let sum = s + t;
    return (sum.x + sum.y) + (sum.z + sum.w);
}
#include "common/elementwise.wgsl"
