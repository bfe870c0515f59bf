// Partial sums over blocks of rows for the gradients of a norm's weight, Σ g·x̂, and of its bias, Σ g: dw and db are
// [blocks, n], an invocation to an element. LAYER: x̂ is not rounded; else it is, as rms_norm rounds it.
#const LAYER = false
struct Params { x: View, g: View, count: u32, rows: u32, n: u32, block: u32 }
#include "common/grid.wgsl"
#params
#bind read x
#view x
#bind read g
#view g
#bind read stats: f32
#bind write dw: f32
#bind write db: f32

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = group_index(group, groups) * 256u + local;
    if (at >= p.count) {
        return;
    }
    let column = at % p.n;
    let first = at / p.n * p.block;
    var w = 0.0;
    var b = 0.0;
    for (var row = first; row < min(first + p.block, p.rows); row++) {
        let i = row * p.n + column;
        let g = load_g(at_g(i));
        var x = (load_x(at_x(i)) - load_stats(2u * row)) * load_stats(2u * row + 1u);
        if (!LAYER) {
            x = round_x(x);
        }
        w += g * x;
        b += g;
    }
    put_dw(at, w);
    if (LAYER) {
        put_db(at, b);
    }
}
