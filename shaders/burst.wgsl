// What a device can do at most (engine/src/ops/burst.rs), on f32. KIND 0 and 1: p.repeats multiply-adds, a multiple of 16, on each
// of eight sums; there is no product of bf16 matrices in WGSL, so 1 is 0 with other factors. 2: p.repeats elements, p.count apart, summed. 3: x + 3·c.
// EACH: elements of y that an invocation has; 8, of 2 and 3 alone, reads whole octs.
#const KIND = 0
#const EACH = 1u
#include "common/grid.wgsl"
#include "common/float.wgsl"
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
        var sum = 0.0;
        for (var k = 0u; k < p.repeats; k++) {
            sum += load_x(at_x(i + k * p.count));
        }
        return sum;
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

fn octs(i: u32) -> Oct {
    var sum = oct_x(at_x(i));
    if (KIND == 3) {
        let c = oct_c(at_c(i));
        return Oct(sum.lo + 3.0 * c.lo, sum.hi + 3.0 * c.hi);
    }
    for (var k = 1u; k < p.repeats; k++) {
        let more = oct_x(at_x(i + k * p.count));
        sum = Oct(sum.lo + more.lo, sum.hi + more.hi);
    }
    return sum;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group_index(group, groups) * 256u + local) * EACH;
    if (first >= p.count) {
        return;
    }
    var v: array<f32, 8>;
    if (EACH == 8u) {
        let o = octs(first);
#repeat u 4
        v[$u] = o.lo[$u];
        v[4 + $u] = o.hi[$u];
#end
    } else {
        v[0] = value(first);
    }
    for (var e = 0u; e < EACH; e += Y_LANES) {
        let n = min(Y_LANES, EACH - e);
        var lanes: array<f32, Y_LANES>;
        for (var k = 0u; k < n; k++) {
            lanes[k] = v[e + k];
        }
        put_lanes_y(first + e, lanes, n);
    }
}
