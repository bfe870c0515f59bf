// A workgroup of 256 to a row; sums and maxima over it, in an order that is the device's but always the same: by
// subgroups and then over these, or without subgroups by a tree in workgroup memory.
#include "common/invocation.wgsl"
#include "common/grid.wgsl"

#if SUBGROUPS
var<workgroup> row_scratch: array<f32, 64>;

fn row_sum(here: Invocation, v: f32) -> f32 {
    let part = subgroupAdd(v);
    // What was read before is no longer needed.
    workgroupBarrier();
    if (here.lane == 0u) {
        row_scratch[here.subgroup] = part;
    }
    workgroupBarrier();
    // Every subgroup adds up all parts, and in the same way.
    var sum = 0.0;
    for (var s = here.lane; s < here.subgroups; s += here.lanes) {
        sum += row_scratch[s];
    }
    return subgroupAdd(sum);
}

// NaN is passed over.
fn row_max(here: Invocation, v: f32) -> f32 {
    let part = subgroupMax(select(v, minus_infinity(), is_nan(v)));
    workgroupBarrier();
    if (here.lane == 0u) {
        row_scratch[here.subgroup] = part;
    }
    workgroupBarrier();
    var most = minus_infinity();
    for (var s = here.lane; s < here.subgroups; s += here.lanes) {
        most = max(most, row_scratch[s]);
    }
    return subgroupMax(most);
}
#else
var<workgroup> row_scratch: array<f32, 256>;

fn row_sum(here: Invocation, v: f32) -> f32 {
    // What was read before is no longer needed.
    workgroupBarrier();
    row_scratch[here.local] = v;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (here.local < half) {
            row_scratch[here.local] += row_scratch[here.local + half];
        }
    }
    workgroupBarrier();
    return row_scratch[0];
}

// NaN is passed over.
fn row_max(here: Invocation, v: f32) -> f32 {
    workgroupBarrier();
    row_scratch[here.local] = select(v, minus_infinity(), is_nan(v));
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (here.local < half) {
            row_scratch[here.local] = max(row_scratch[here.local], row_scratch[here.local + half]);
        }
    }
    workgroupBarrier();
    return row_scratch[0];
}
#end
