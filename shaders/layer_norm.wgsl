// y = (x − mean) / √(var + eps) · w + b, a workgroup to a row; two passes, so that a large mean costs no digits.
#include "common/rows.wgsl"
struct Params { x: View, w: View, b: View, rows: u32, n: u32, eps: f32 }
#params
#bind read x
#view x
#bind read w
#view w
#bind read b
#view b
#bind write y

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    here: Invocation,
) {
    let local = here.local;
    let row = group_index(group, groups);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.n;
    var sum = 0.0;
    for (var i = local; i < p.n; i += 256u) {
        sum += load_x(at_x(at + i));
    }
    let mean = row_sum(here, sum) / f32(p.n);
    sum = 0.0;
    for (var i = local; i < p.n; i += 256u) {
        let d = load_x(at_x(at + i)) - mean;
        sum += d * d;
    }
    let scale = 1.0 / sqrt(row_sum(here, sum) / f32(p.n) + p.eps);
    for (var i = local * Y_LANES; i < p.n; i += 256u * Y_LANES) {
        let n = min(Y_LANES, p.n - i);
        var v: array<f32, Y_LANES>;
        for (var k = 0u; k < n; k++) {
            v[k] = (load_x(at_x(at + i + k)) - mean) * scale * load_w(at_w(i + k)) + load_b(at_b(i + k));
        }
        put_lanes_y(at + i, v, n);
    }
}
