// Cosine and sine of an angle ≥ 0 of any size to f32 precision, and rotation by it. The library's own keep a stack frame for the reduction of large
// angles. Every rounding is said: all kernels that rotate have the same bits.
#pragma once
#include "common/prelude.cuh"

// The angle in turns modulo 1, in units of 2^−32: the mantissa times 96 bits of 1/(2π) (Payne and Hanek 1983). For angles from ½ on.
__device__ inline u32 turns(float angle) {
    u32 bits = f32_to_bits(angle), mantissa = ((bits & 0x7fffffu) | 0x800000u) << 8;
    // angle = mantissa · 2^(shift − 32)
    u32 shift = (bits >> 23) - 126;
    u64 p0 = static_cast<u64>(mantissa) * 0x28be60dbu, p1 = static_cast<u64>(mantissa) * 0x9391054au, p2 = static_cast<u64>(mantissa) * 0x7f09d5f4u;
    u64 low = (p2 >> 32) + (p1 & 0xffffffffu);
    u64 middle = (p1 >> 32) + (p0 & 0xffffffffu) + (low >> 32);
    u32 t1 = static_cast<u32>(low), t2 = static_cast<u32>(middle), t3 = static_cast<u32>((p0 >> 32) + (middle >> 32));
    if (shift == 0) return t3;
    if (shift < 32) return (t3 << shift) | (t2 >> (32 - shift));
    if (shift == 32) return t2;
    // Angles below 2^63; beyond, f32 knows no turns.
    return shift < 64 ? (t2 << (shift - 32)) | (t1 >> (64 - shift)) : t1;
}

__device__ inline void cos_sin(float angle, float& cosine, float& sine) {
    float r = angle;
    u32 quarter = 0;
    if (angle > 0.75f) {
        u32 t = turns(angle);
        quarter = (t + 0x20000000u) >> 30;
        // 2π/2^32
        r = mul_rn(static_cast<float>(static_cast<i32>(t - (quarter << 30))), 1.4629180792671596e-9f);
    }
    float z = mul_rn(r, r);
    float s = fma_rn(fma_rn(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f);
    s = fma_rn(mul_rn(s, z), r, r);
    float c = fma_rn(fma_rn(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f);
    c = fma_rn(mul_rn(c, z), z, fma_rn(-0.5f, z, 1.0f));
    bool swap = quarter & 1;
    float a = swap ? s : c, b = swap ? c : s;
    cosine = (quarter + 1) & 2 ? -a : a;
    sine = quarter & 2 ? -b : b;
}

// Rotates the pair (a, b) by position · frequency, or back where `sign` is −1. Cosine, sine, products and sums are rounded to `T`, as transformers
// computes them in the activation's type.
template <class T>
__device__ inline void rotate(float& a, float& b, u32 position, float frequency, float sign) {
    float cosine, sine;
    cos_sin(mul_rn(static_cast<float>(position), frequency), cosine, sine);
    cosine = round_as(T(), cosine);
    sine = mul_rn(round_as(T(), sine), sign);
    auto product = [](float x, float y) { return round_as(T(), mul_rn(x, y)); };
    float first = add_rn(product(a, cosine), -product(b, sine)), second = add_rn(product(b, cosine), product(a, sine));
    a = round_as(T(), first);
    b = round_as(T(), second);
}
