// y = table[code]·scale, rounded once.
struct Params { q: Packed, count: u32 }
#params
#include "common/packed.wgsl"
#bind write y

fn value(i: u32) -> f32 {
    return packed_value(i);
}
#include "common/elementwise.wgsl"
