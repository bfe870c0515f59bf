// Conversion between all element types: floats round to the nearest, ties to even, once; floats to integers truncate and saturate, NaN becomes 0;
// integers saturate.
#pragma once
#include "common/layout.cuh"

// What any element fits in without loss: a float, or an integer of 33 bits.
template <class T>
struct IsFloat {
    static constexpr bool value = false;
};
template <>
struct IsFloat<float> {
    static constexpr bool value = true;
};
template <>
struct IsFloat<bf16> {
    static constexpr bool value = true;
};
template <>
struct IsFloat<f16> {
    static constexpr bool value = true;
};

// An integer as f32 such that a second rounding to bf16 or f16 gives what one would: what does not fit is kept as one odd last bit (Boldo and
// Melquiond 2008).
__device__ inline float magnitude_to_odd(u32 v) {
    if (v >> 24) v = (v & ~0xffu) | ((v & 0xffu) ? 0x100u : 0u);
    return static_cast<float>(v);
}

template <class From>
__device__ inline i64 integer(From v) {
    return static_cast<i64>(v);
}

__device__ inline void clamp_to(u8& to, i64 v) { to = static_cast<u8>(v < 0 ? 0 : v > 255 ? 255 : v); }
__device__ inline void clamp_to(u32& to, i64 v) { to = static_cast<u32>(v < 0 ? 0 : v > 0xffffffffll ? 0xffffffffll : v); }
__device__ inline void clamp_to(i32& to, i64 v) { to = static_cast<i32>(v < -0x80000000ll ? -0x80000000ll : v > 0x7fffffff ? 0x7fffffff : v); }

template <class To, class From>
__device__ inline To convert(From v) {
    To to;
    if constexpr (IsFloat<From>::value && IsFloat<To>::value) {
        from_f32(to, to_f32(v));
    } else if constexpr (IsFloat<From>::value) {
        float x = to_f32(v);
        // Beyond any integer type here; NaN is neither.
        i64 whole = x >= 1e10f ? 10000000000ll : x <= -1e10f ? -10000000000ll : is_nan(x) ? 0 : static_cast<i64>(x);
        clamp_to(to, whole);
    } else if constexpr (IsFloat<To>::value) {
        i64 whole = integer(v);
        u32 size = static_cast<u32>(whole < 0 ? -whole : whole);
        float x = sizeof(To) == 4 ? static_cast<float>(size) : magnitude_to_odd(size);
        from_f32(to, whole < 0 ? -x : x);
    } else {
        clamp_to(to, integer(v));
    }
    return to;
}

// y = convert(x) for all elements of two views of one shape. Any grid of one-dimensional blocks. Where both are dense and aligned a thread takes
// as many elements as fill 16 bytes of the wider type.
template <class To, class From>
__device__ inline void convert_elements(To* y, const From* x, const View& y_view, const View& x_view, u32 count) {
    constexpr u32 WIDE = sizeof(To) > sizeof(From) ? sizeof(To) : sizeof(From), LANES = 16 / WIDE;
    constexpr u32 Y_BYTES = LANES * sizeof(To), X_BYTES = LANES * sizeof(From);
    u64 first = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x, step = static_cast<u64>(gridDim.x) * blockDim.x;
    u32 done = 0;
    if (x_view.dense() && y_view.dense() && aligned(x, X_BYTES) && aligned(y, Y_BYTES)) {
        struct alignas(X_BYTES) In {
            From values[LANES];
        };
        struct alignas(Y_BYTES) Out {
            To values[LANES];
        };
        u32 parts = count / LANES;
        for (u64 part = first; part < parts; part += step) {
            In in = reinterpret_cast<const In*>(x)[part];
            Out out;
#pragma unroll
            for (u32 lane = 0; lane < LANES; lane++) out.values[lane] = convert<To>(in.values[lane]);
            reinterpret_cast<Out*>(y)[part] = out;
        }
        done = parts * LANES;
    }
    for (u64 i = done + first; i < count; i += step) {
        u32 index = static_cast<u32>(i);
        y[y_view.at(index)] = convert<To>(x[x_view.at(index)]);
    }
}

// M(from, From, to, To) for all pairs of element types.
#define FOR_TARGETS(M, from, From) \
    M(from, From, f32, float) M(from, From, bf16, bf16) M(from, From, f16, f16) M(from, From, u8, u8) M(from, From, u32, u32) M(from, From, i32, i32)
#define FOR_CONVERSIONS(M)                                                                                            \
    FOR_TARGETS(M, f32, float) FOR_TARGETS(M, bf16, bf16) FOR_TARGETS(M, f16, f16) FOR_TARGETS(M, u8, u8) FOR_TARGETS(M, u32, u32) \
    FOR_TARGETS(M, i32, i32)
