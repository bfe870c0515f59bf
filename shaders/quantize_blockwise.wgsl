// Codes of x relative to its blocks' largest magnitudes: FOUR two to a byte, the even element in the high half. An
// invocation to a word of codes. The table is p.entries codes in rising order of their values and the midpoints between.
#const FOUR = true
#include "common/grid.wgsl"
struct Params { x: View, bytes: u32, elements: u32, block: u32, entries: u32 }
#params
#bind read x
#view x
#bind read absmax: f32
#bind read midpoints: f32
#bind read entry_codes: u32
#bind write y: u8

// The code of the entry nearest to x: ties take the lower one, NaN the lowest.
fn nearest(x: f32) -> u32 {
    var low = 0u;
    var high = p.entries - 1u;
    while (low < high) {
        let mid = (low + high) / 2u;
        if (x > load_midpoints(mid)) {
            low = mid + 1u;
        } else {
            high = mid;
        }
    }
    return load_entry_codes(low);
}

fn code(i: u32) -> u32 {
    if (i >= p.elements) {
        return nearest(0.0);
    }
    // As the reference: a block of zeros is not divided by 0.
    let most = load_absmax(i / p.block);
    let inverse = 1.0 / select(1e-38, most, most > 1e-38 || is_nan(most));
    let x = load_x(at_x(i)) * inverse;
    if (is_nan(x)) {
        return nearest(x);
    }
    return nearest(clamp(x, -1.0, 1.0));
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group_index(group, groups) * 256u + local) * 4u;
    if (first >= p.bytes) {
        return;
    }
    let n = min(4u, p.bytes - first);
    var bytes: array<u32, 4>;
    for (var k = 0u; k < n; k++) {
        if (FOUR) {
            bytes[k] = (code(2u * (first + k)) << 4u) | code(2u * (first + k) + 1u);
        } else {
            bytes[k] = code(first + k);
        }
    }
    put_raw_lanes_y(first, bytes, n);
}
