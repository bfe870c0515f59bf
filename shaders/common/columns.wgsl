// Products of few rows (ROWS of them): LANES invocations share EACH columns, and EACH·256 / LANES columns a workgroup.
// An invocation sums up what it has of a column; then `keep_sum` for each row and column, and `put_columns`. Each of
// PARTS workgroups takes a part of the inner dimension; where there are several, y is f32 [PARTS, m, n].
//
// The kernel binds the output y, row-major with rows of p.ldc elements, of which columns p.first.. are this launch's,
// and defines `fn finish(row: u32, col: u32, sum: f32) -> f32`. Parameters: p.m, p.n, p.k, p.ldc, p.first.
#include "common/invocation.wgsl"
#include "common/parts.wgsl"
#const B_BY_K = true
#const ROWS = 1u
#const LANES = 32u
#const EACH = 1u
const GROUPS = 256u / LANES;
const COLS = EACH * GROUPS;
// From one invocation of a column to the next.
const STEP = select(GROUPS, 1u, B_BY_K);

var<workgroup> partial: array<f32, ROWS * EACH * 256u>;

// The invocation's number, of which neighbours are in one subgroup.
fn number(here: Invocation) -> u32 {
    #if SUBGROUPS
    return here.subgroup * here.lanes + here.lane;
    #else
    return here.local;
    #end
}

// Which of the LANES it is. Neighbouring invocations read neighbouring elements of B.
fn lane_of(here: Invocation) -> u32 {
    return select(number(here) / GROUPS, number(here) % LANES, B_BY_K);
}

// Which of GROUPS columns it has first.
fn column_of(here: Invocation) -> u32 {
    return select(number(here) % GROUPS, number(here) / LANES, B_BY_K);
}

// How many invocations of a subgroup share a column.
fn span(here: Invocation) -> u32 {
    #if SUBGROUPS
    return clamp(here.lanes / STEP, 1u, LANES);
    #else
    return 1u;
    #end
}

fn keep_sum(here: Invocation, row: u32, each: u32, v: f32) {
    var sum = v;
    #if SUBGROUPS
    for (var d = 1u; d < LANES; d *= 2u) {
        // Beyond the subgroup there is nobody to ask.
        let within = d < span(here);
        let other = subgroupShuffle(sum, select(here.lane, here.lane ^ (d * STEP), within));
        sum += select(0.0, other, within);
    }
    #end
    let lane = lane_of(here);
    if (lane % span(here) == 0u) {
        let part = row * (LANES / span(here)) + lane / span(here);
        partial[part * COLS + each * GROUPS + column_of(here)] = sum;
    }
}

fn put_columns(here: Invocation, z: u32, col0: u32) {
    // Sums of a column that are left.
    let left = LANES / span(here);
    #if SUBGROUPS
    workgroupBarrier();
    #else
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        for (var t = here.local; t < ROWS * half * COLS; t += 256u) {
            let r = t / (half * COLS);
            let at = r * LANES * COLS + t % (half * COLS);
            partial[at] += partial[at + half * COLS];
        }
    }
    workgroupBarrier();
    #end
    for (var t = here.local * Y_LANES; t < ROWS * COLS; t += 256u * Y_LANES) {
        let r = t / COLS;
        let col = col0 + t % COLS;
        if (col < p.n) {
            let n = min(Y_LANES, p.n - col);
            var v: array<f32, Y_LANES>;
            for (var l = 0u; l < n; l++) {
                let at = r * left * COLS + (t + l) % COLS;
                var sum = partial[at];
                #if SUBGROUPS
                for (var s = 1u; s < left; s++) {
                    sum += partial[at + s * COLS];
                }
                #end
                v[l] = finish(r, col + l, sum);
            }
            put_lanes_y((z * p.m + r) * p.ldc + p.first + col, v, n);
        }
    }
}
