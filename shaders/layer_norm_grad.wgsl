// dx = r·(h − mean(h) − x̂·mean(h·x̂)) with h = g·w, x̂ the normalised input, r = 1/√(var + eps); leaves mean and r of each row
// in `stats` for norm_grad_weight.wgsl. A workgroup to a row.
#include "common/rows.wgsl"
struct Params { x: View, w: View, g: View, rows: u32, n: u32, eps: f32 }
#params
#bind read x
#view x
#bind read w
#view w
#bind read g
#view g
#bind write dx
#bind write stats: f32

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
    let n = f32(p.n);
    var sum = 0.0;
    for (var i = local; i < p.n; i += 256u) {
        sum += load_x(at_x(at + i));
    }
    let mean = row_sum(here, sum) / n;
    sum = 0.0;
    for (var i = local; i < p.n; i += 256u) {
        let d = load_x(at_x(at + i)) - mean;
        sum += d * d;
    }
    let scale = 1.0 / sqrt(row_sum(here, sum) / n + p.eps);
    sum = 0.0;
    var products = 0.0;
    for (var i = local; i < p.n; i += 256u) {
        let h = load_g(at_g(at + i)) * load_w(at_w(i));
        sum += h;
        products += h * ((load_x(at_x(at + i)) - mean) * scale);
    }
    let mean_h = row_sum(here, sum) / n;
    let mean_hx = row_sum(here, products) / n;
    for (var i = local * DX_LANES; i < p.n; i += 256u * DX_LANES) {
        let count = min(DX_LANES, p.n - i);
        var v: array<f32, DX_LANES>;
        for (var k = 0u; k < count; k++) {
            let h = load_g(at_g(at + i + k)) * load_w(at_w(i + k));
            let x = (load_x(at_x(at + i + k)) - mean) * scale;
            v[k] = scale * (h - mean_h - x * mean_hx);
        }
        put_lanes_dx(at + i, v, count);
    }
    if (local == 0u) {
        put_stats(2u * row, mean);
        put_stats(2u * row + 1u, scale);
    }
}
