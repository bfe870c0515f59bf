// As linear_nf4_thin.wgsl where rows of the weight divide by 32, and blocks too: an invocation takes 32 codes of EACH
// columns at a time, sixteen bytes under one scale. LANES invocations share the columns.
#include "common/linear_nf4.wgsl"
#const ROWS = 1u
#const LANES = 8u
#const EACH = 1u
const GROUPS = 256u / LANES;
const COLS = EACH * GROUPS;

var<workgroup> partial: array<f32, ROWS * EACH * 256u>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    take_values();
    let lane = local % LANES;
    let c = local / LANES;
    let col0 = group.x * COLS;
    // The last columns' invocations take one twice rather than none.
    #repeat e EACH
    let col_$e = min(col0 + $eu * GROUPS + c, p.n - 1u);
    #repeat r ROWS
    var sum_$r_$e = 0.0;
    #end
    #end
    for (var k = lane * 32u; k < p.inner; k += LANES * 32u) {
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
    // The adapter's term.
    for (var k = lane; k < p.rank; k += LANES) {
        #repeat e EACH
        let b_$e = b_at(p.inner + k, col_$e);
        #repeat r ROWS
        sum_$r_$e += load_h($ru * p.rank + k) * b_$e;
        #end
        #end
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
            put_lanes_y(r * p.ldc + p.first + col, v, n);
        }
    }
}
