// y = a ∘ b; KIND: + − · /
#const KIND = 0u
struct Params { a: View, b: View, count: u32 }
#params
#bind read a
#view a
#bind read b
#view b
#bind write y

fn value(i: u32) -> f32 {
    let a = load_a(at_a(i));
    let b = load_b(at_b(i));
    switch KIND {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        default: { return a / b; }
    }
}
#include "common/elementwise.wgsl"
