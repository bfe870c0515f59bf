// y = round(x / √(mean(x²) + eps)) · w, a workgroup to a row.
#include "common/rows.wgsl"
struct Params { x: View, w: View, rows: u32, n: u32, eps: f32 }
#params
#bind read x
#view x
#bind read w
#view w
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
        let x = load_x(at_x(at + i));
        sum += x * x;
    }
    let scale = 1.0 / sqrt(row_sum(here, sum) / f32(p.n) + p.eps);
    for (var i = local * Y_LANES; i < p.n; i += 256u * Y_LANES) {
        let n = min(Y_LANES, p.n - i);
        var v: array<f32, Y_LANES>;
        for (var k = 0u; k < n; k++) {
            v[k] = round_y(load_x(at_x(at + i + k)) * scale) * load_w(at_w(i + k));
        }
        put_lanes_y(at + i, v, n);
    }
}
