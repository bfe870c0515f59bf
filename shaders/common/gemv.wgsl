// C = A·B for few rows: decoding reads each weight once. What the kernel defines is as for common/gemm.wgsl, and where
// OCT is set
//   fn a_oct(row: u32, k: u32) -> Oct, fn b_oct(k: u32, col: u32) -> Oct
// for eight neighbours along k, which then divides by eight. Who takes what is in common/columns.wgsl.
#include "common/columns.wgsl"
#const OCT = false

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, here: Invocation) {
    begin(batch_of(group.z));
    let lane = lane_of(here);
    let c = column_of(here);
    let col0 = group.x * COLS;
    let first = part_begin(part_of(group.z), p.k);
    let end = part_begin(part_of(group.z) + 1u, p.k);
    // The last columns' invocations take one twice rather than none.
    #repeat e EACH
    let col_$e = min(col0 + $eu * GROUPS + c, p.n - 1u);
    #repeat r ROWS
    var sum_$r_$e = 0.0;
    #end
    #end
    if (OCT) {
        for (var k = first + lane * 8u; k < end; k += LANES * 8u) {
            #repeat e EACH
            let b_$e = b_oct(k, col_$e);
            #end
            #repeat r ROWS
            let a_$r = a_oct($ru, k);
            #repeat e EACH
            sum_$r_$e += oct_dot(a_$r, b_$e);
            #end
            #end
        }
    } else {
        for (var k = first + lane; k < end; k += LANES) {
            #repeat e EACH
            let b_$e = b_at(k, col_$e);
            #end
            #repeat r ROWS
            let a_$r = a_at($ru, k);
            #repeat e EACH
            sum_$r_$e += a_$r * b_$e;
            #end
            #end
        }
    }
    #repeat e EACH
    #repeat r ROWS
    keep_sum(here, $ru, $eu, sum_$r_$e);
    #end
    #end
    put_columns(here, group.z, col0);
}
