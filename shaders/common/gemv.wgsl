// C = A·B for few rows (ROWS of them): decoding reads each weight once. LANES invocations share EACH columns, and
// EACH·256 / LANES columns a workgroup. What the kernel defines is as for common/gemm.wgsl, and where OCT is set
//   fn a_oct(row: u32, k: u32) -> Oct, fn b_oct(k: u32, col: u32) -> Oct
// for eight neighbours along k, which then divides by eight.
#const B_BY_K = true
#const ROWS = 1u
#const LANES = 32u
#const EACH = 1u
#const OCT = false
const GROUPS = 256u / LANES;
const COLS = EACH * GROUPS;

var<workgroup> partial: array<f32, ROWS * EACH * 256u>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    begin(group.z);
    // Neighbouring invocations read neighbouring elements of B.
    let lane = select(local / GROUPS, local % LANES, B_BY_K);
    let c = select(local % GROUPS, local / LANES, B_BY_K);
    let col0 = group.x * COLS;
    // The last columns' invocations take one twice rather than none.
    #repeat e EACH
    let col_$e = min(col0 + $eu * GROUPS + c, p.n - 1u);
    #repeat r ROWS
    var sum_$r_$e = 0.0;
    #end
    #end
    if (OCT) {
        for (var k = lane * 8u; k < p.k; k += LANES * 8u) {
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
        for (var k = lane; k < p.k; k += LANES) {
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
    partial[($ru * LANES + lane) * COLS + $eu * GROUPS + c] = sum_$r_$e;
    #end
    #end
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        for (var t = local; t < ROWS * half * COLS; t += 256u) {
            let r = t / (half * COLS);
            let at = r * LANES * COLS + t % (half * COLS);
            partial[at] += partial[at + half * COLS];
        }
    }
    workgroupBarrier();
    for (var t = local * Y_LANES; t < ROWS * COLS; t += 256u * Y_LANES) {
        let r = t / COLS;
        let col = col0 + t % COLS;
        if (col < p.n) {
            let n = min(Y_LANES, p.n - col);
            var v: array<f32, Y_LANES>;
            for (var l = 0u; l < n; l++) {
                v[l] = finish(r, col + l, partial[r * LANES * COLS + (t + l) % COLS]);
            }
            put_lanes_y((group.z * p.m + r) * p.ldc + p.first + col, v, n);
        }
    }
}
