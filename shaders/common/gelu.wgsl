// Factors of both forms of GELU and of their slopes.
#include "common/math.wgsl"
const TWICE_SQRT_2_PI = 1.595769;
const CUBE = 0.044715;
const FRAC_1_SQRT_2 = 0.70710678;
// 1/√(2π)
const DENSITY = 0.3989423;

// ½(1 + tanh u) is sigmoid(2u): one exponential, and no digit cancels where tanh is near −1.
fn tanh_gate(x: f32) -> f32 {
    return sigmoid_(TWICE_SQRT_2_PI * (x + CUBE * x * x * x));
}

fn erf_gate(x: f32) -> f32 {
    return 0.5 * (1.0 + erf_(x * FRAC_1_SQRT_2));
}
