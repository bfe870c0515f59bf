// gelu and its derivative, for the kinds of `GeluKind`: tanh, erf.
#pragma once
#include "common/prelude.cuh"

constexpr float TWICE_SQRT_2_PI = 1.595769122f, GELU_CUBIC = 0.044715f, SQRT_HALF = 0.707106781f;

// ½(1 + tanh u) is 1 / (1 + e^(−2u)): one exponential, and no digit cancels where tanh is near −1.
__device__ inline float gelu_gate(float x) { return 1.0f / (1.0f + expf(-TWICE_SQRT_2_PI * (x + GELU_CUBIC * x * x * x))); }

__device__ inline float gelu_of(u32 kind, float x) {
    if (kind == 1) return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
    return x * gelu_gate(x);
}

__device__ inline float gelu_slope(u32 kind, float x) {
    if (kind == 1) {
        constexpr float SQRT_1_2PI = 0.398942280f;
        return 0.5f * (1.0f + erff(x * SQRT_HALF)) + x * SQRT_1_2PI * expf(-0.5f * x * x);
    }
    float gate = gelu_gate(x);
    // x · gate · (1 − gate) · d(2u)/dx; where the gate is 0, x² may be infinite.
    float turn = gate * (1.0f - gate);
    return turn == 0.0f ? gate : gate + x * turn * TWICE_SQRT_2_PI * (1.0f + 3.0f * GELU_CUBIC * x * x);
}
