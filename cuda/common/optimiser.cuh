// Elementwise updates in place, of operands with types of their own.
#pragma once
#include "common/layout.cuh"

// An operand; one without memory reads as zeros and is not written.
template <class T>
struct Target {
    T* data;
    const View& view;
    bool written;

    __device__ bool wide() const { return data == nullptr || (view.dense() && aligned(data, 4 * sizeof(T))); }
    __device__ void get(float (&to)[4], u64 at) const {
        if (data) {
            load_values(to, data + at);
        } else {
            to[0] = to[1] = to[2] = to[3] = 0.0f;
        }
    }
    __device__ void put(u64 at, const float (&from)[4]) const {
        if (data && written) store_values(data + at, from);
    }
    __device__ float get_one(u32 i) const { return data ? to_f32(data[view.at(i)]) : 0.0f; }
    __device__ void put_one(u32 i, float v) const {
        if (data && written) from_f32(data[view.at(i)], v);
    }
};

// `f(value&…)` changes the values of one element. Any grid of one-dimensional blocks.
template <class F, class... Targets>
__device__ inline void update_elements(u32 count, F f, const Targets&... targets) {
    constexpr u32 N = sizeof...(Targets), LANES = 4;
    static_assert(N == 3 || N == 4, "as operations have them");
    u64 first = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x, step = static_cast<u64>(gridDim.x) * blockDim.x;
    u32 done = 0;
    if ((targets.wide() && ...)) {
        u32 parts = count / LANES;
        for (u64 part = first; part < parts; part += step) {
            float values[N][LANES];
            u32 k = 0;
            (targets.get(values[k++], part * LANES), ...);
#pragma unroll
            for (u32 lane = 0; lane < LANES; lane++) {
                if constexpr (N == 3) f(values[0][lane], values[1][lane], values[2][lane]);
                if constexpr (N == 4) f(values[0][lane], values[1][lane], values[2][lane], values[3][lane]);
            }
            k = 0;
            (targets.put(part * LANES, values[k++]), ...);
        }
        done = parts * LANES;
    }
    for (u64 i = done + first; i < count; i += step) {
        float values[N];
        u32 k = 0;
        ((values[k++] = targets.get_one(static_cast<u32>(i))), ...);
        if constexpr (N == 3) f(values[0], values[1], values[2]);
        if constexpr (N == 4) f(values[0], values[1], values[2], values[3]);
        k = 0;
        (targets.put_one(static_cast<u32>(i), values[k++]), ...);
    }
}

// What a step of AdamW multiplies with; each rounded once from f64 by the host.
struct AdamWFactors {
    float grad_scale, keep, one_minus_beta1, beta2, one_minus_beta2, minus_step_size, root_correction2, eps;

    __device__ float scaled(float g) const { return mul_rn(g, grad_scale); }
    // One element with its scaled gradient, in torch's order and with its roundings: the same bits alone and in a list.
    __device__ void step(float& p, float& m, float& v, float g) const {
        p = mul_rn(p, keep);
        m = add_rn(m, mul_rn(one_minus_beta1, add_rn(g, -m)));
        v = add_rn(mul_rn(v, beta2), mul_rn(mul_rn(one_minus_beta2, g), g));
        p = add_rn(p, mul_rn(minus_step_size, m) / add_rn(sqrtf(v) / root_correction2, eps));
    }
};

// Which of a table's entries, by rising `first_block`, this block works on.
template <class T>
__device__ inline u32 entry_of_block(const T* table, u32 entries) {
    u32 low = 0, high = entries;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (table[middle].first_block <= blockIdx.x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// M(p suffix, P, g suffix, G) for the types of parameters and gradients.
#define FOR_OPTIMISERS(M) M(f32, float, f32, float) M(f32, float, bf16, bf16) M(bf16, bf16, f32, float) M(bf16, bf16, bf16, bf16)
