// A workgroup of 256 to a row; sums and maxima over it in a fixed order.
#include "common/grid.wgsl"

var<workgroup> row_scratch: array<f32, 256>;

fn row_sum(local: u32, v: f32) -> f32 {
    // What was read before is no longer needed.
    workgroupBarrier();
    row_scratch[local] = v;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            row_scratch[local] += row_scratch[local + half];
        }
    }
    workgroupBarrier();
    return row_scratch[0];
}

// NaN is passed over.
fn row_max(local: u32, v: f32) -> f32 {
    workgroupBarrier();
    row_scratch[local] = v;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half && row_scratch[local + half] > row_scratch[local]) {
            row_scratch[local] = row_scratch[local + half];
        }
    }
    workgroupBarrier();
    return row_scratch[0];
}
