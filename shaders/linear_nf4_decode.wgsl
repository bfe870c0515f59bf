// As linear_nf4_thin.wgsl where rows of the weight divide by 32, and blocks too: an invocation takes 32 codes of EACH
// columns at a time, sixteen bytes under one scale.
#include "common/linear_nf4.wgsl"
#include "common/columns.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, here: Invocation) {
    take_values();
    let lane = lane_of(here);
    let c = column_of(here);
    let col0 = group.x * COLS;
    let part = part_of(group.z);
    let end = part_begin(part + 1u, p.inner);
    // The last columns' invocations take one twice rather than none.
    #repeat e EACH
    let col_$e = min(col0 + $eu * GROUPS + c, p.n - 1u);
    #repeat r ROWS
    var sum_$r_$e = 0.0;
    #end
    #end
    for (var k = part_begin(part, p.inner) + lane * 32u; k < end; k += LANES * 32u) {
        #repeat e EACH
        let scale_$e = scale_of((col_$e * p.inner + k) / BLOCK);
        let codes_$e = hex_codes(p.q.codes_at + (col_$e * p.inner + k) / 2u);
        #end
        #repeat i 4
        #repeat e EACH
        let v_$i_$e = values_in(codes_$e[$i]);
        let w_$i_$e = Oct(round_quad_x(v_$i_$e.lo * scale_$e), round_quad_x(v_$i_$e.hi * scale_$e));
        #end
        #repeat r ROWS
        let x_$i_$r = oct_x(p.x_at + $ru * p.x_row + k + 8u * $iu);
        #repeat e EACH
        sum_$r_$e += oct_dot(x_$i_$r, w_$i_$e);
        #end
        #end
        #end
    }
    // The adapter's term, whole in the first part.
    for (var k = lane; part == 0u && k < p.rank; k += LANES) {
        #repeat e EACH
        let b_$e = b_at(p.inner + k, col_$e);
        #repeat r ROWS
        sum_$r_$e += load_h($ru * p.rank + k) * b_$e;
        #end
        #end
    }
    #repeat e EACH
    #repeat r ROWS
    keep_sum(here, $ru, $eu, sum_$r_$e);
    #end
    #end
    put_columns(here, group.z, col0);
}
