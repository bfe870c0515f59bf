// y[r, v] = g[r]·(exp(logits[r, v] − lse[r]) − [v = labels[r]]), 0 in ignored rows.
#include "common/math.wgsl"
struct Params { logits: View, labels: View, count: u32, n: u32, ignore: i32, launch: u32, lse_at: u32, lse_step: u32, g_at: u32, g_step: u32 }
#params
#bind read logits
#view logits
#bind read labels: i32
#view labels
#bind read lse: f32
#bind read g: f32
#bind write y
#fault

fn value(i: u32) -> f32 {
    let row = i / p.n;
    let label = load_labels(at_labels(row));
    if (label == p.ignore) {
        return 0.0;
    }
    if (label < 0 || u32(label) >= p.n) {
        fault(bitcast<u32>(label), row);
        return 0.0;
    }
    let q = exp_(load_logits(at_logits(i)) - load_lse(p.lse_at + row * p.lse_step));
    let one = select(0.0, 1.0, i - row * p.n == u32(label));
    return load_g(p.g_at + row * p.g_step) * (q - one);
}
#include "common/elementwise.wgsl"
