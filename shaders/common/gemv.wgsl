// C = A·B for few rows (ROWS of them): decoding reads each weight once. LANES invocations share a column and
// 256 / LANES columns a workgroup. What the kernel defines is as for common/gemm.wgsl.
#const B_BY_K = true
#const ROWS = 1u
#const LANES = 32u
const COLS = 256u / LANES;

var<workgroup> partial: array<f32, ROWS * 256u>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    begin(group.z);
    // Neighbouring invocations read neighbouring elements of B.
    let lane = select(local / COLS, local % LANES, B_BY_K);
    let c = select(local % COLS, local / LANES, B_BY_K);
    let col0 = group.x * COLS;
    var sums = array<f32, ROWS>();
    if (col0 + c < p.n) {
        for (var k = lane; k < p.k; k += LANES) {
            let b = b_at(k, col0 + c);
            for (var r = 0u; r < ROWS; r++) {
                sums[r] += a_at(r, k) * b;
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        partial[(r * LANES + lane) * COLS + c] = sums[r];
    }
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
