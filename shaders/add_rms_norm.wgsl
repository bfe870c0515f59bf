// sum = x + y and z = round(sum / √(mean(sum²) + eps)) · w, a workgroup to a row. The order of the sum is that of
// rms_norm.wgsl: the results are the same bits.
#include "common/rows.wgsl"
struct Params { x: View, y: View, w: View, rows: u32, n: u32, eps: f32 }
#params
#bind read x
#view x
#bind read y
#view y
#bind read w
#view w
#bind write sum
#bind write z

// Element i of the sum, as it is stored.
fn sum_at(i: u32) -> f32 {
    return round_x(load_x(at_x(i)) + load_y(at_y(i)));
}

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
    var squares = 0.0;
    for (var i = local; i < p.n; i += 256u) {
        let x = sum_at(at + i);
        squares += x * x;
    }
    let scale = 1.0 / sqrt(row_sum(here, squares) / f32(p.n) + p.eps);
    // Both outputs have one type.
    for (var i = local * Z_LANES; i < p.n; i += 256u * Z_LANES) {
        let n = min(Z_LANES, p.n - i);
        var s: array<f32, Z_LANES>;
        var v: array<f32, Z_LANES>;
        for (var k = 0u; k < n; k++) {
            s[k] = sum_at(at + i + k);
            v[k] = round_z(s[k] * scale) * load_w(at_w(i + k));
        }
        put_lanes_sum(at + i, s, n);
        put_lanes_z(at + i, v, n);
    }
}
