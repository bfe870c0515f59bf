// stats[b, h, i] = (lse, Σ_d g·out): what both gradient kernels need of each query; an invocation to a query.
#include "common/grid.wgsl"
struct Params { out: View, g: View, lse: View, count: u32, sq: u32, heads: u32, d: u32 }
#params
#bind read out
#view out
#bind read g
#view g
#bind read lse: f32
#view lse
#bind write stats: f32

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
    let i = at % p.sq;
    let head = at / p.sq % p.heads;
    let b = at / p.sq / p.heads;
    let first = ((b * p.sq + i) * p.heads + head) * p.d;
    var sum = 0.0;
    for (var d = 0u; d < p.d; d++) {
        sum += load_g(at_g(first + d)) * load_out(at_out(first + d));
    }
    put_stats(2u * at, load_lse(at_lse(at)));
    put_stats(2u * at + 1u, sum);
}
