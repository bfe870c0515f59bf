// Elementwise kernels: y[i] = f(x0[i], x1[i], …) for i < count, in f32, rounded once. Outputs are contiguous, inputs views. Where all inputs are
// dense and aligned, a thread takes 16 bytes of each at a time; else one element, found through the view.
#pragma once
#include "common/layout.cuh"

// An input of an elementwise kernel.
template <class T>
struct Operand {
    const T* data;
    const View& view;
};

namespace elementwise {

template <class T>
__device__ inline bool wide(const Operand<T>& x) {
    return x.view.dense() && aligned(x.data, 16);
}

// The outputs of one element.
template <u32 OUTPUTS>
struct Results {
    float values[OUTPUTS];
};
__device__ inline Results<1> results_of(float value) { return {{value}}; }
template <u32 OUTPUTS>
__device__ inline Results<OUTPUTS> results_of(Results<OUTPUTS> results) {
    return results;
}

}  // namespace elementwise

// `f(index, inputs…)` gives the Results of element `index`, or its value if there is one output. Any grid of one-dimensional blocks.
template <u32 OUTPUTS, class T, class F, class... Operands>
__device__ inline void elementwise_map(T* const (&y)[OUTPUTS], u32 count, F f, const Operands&... x) {
    constexpr u32 INPUTS = sizeof...(Operands), LANES = 16 / sizeof(T);
    u64 first = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x, step = static_cast<u64>(gridDim.x) * blockDim.x;
    bool fast = (elementwise::wide(x) && ...);
#pragma unroll
    for (u32 o = 0; o < OUTPUTS; o++) fast = fast && aligned(y[o], 16);
    u32 done = 0;
    if (fast) {
        const T* data[INPUTS] = {x.data...};
        u32 parts = count / LANES;
        for (u64 part = first; part < parts; part += step) {
            float in[INPUTS][LANES], out[OUTPUTS][LANES];
#pragma unroll
            for (u32 k = 0; k < INPUTS; k++) load_values(in[k], data[k] + part * LANES);
#pragma unroll
            for (u32 lane = 0; lane < LANES; lane++) {
                u32 index = static_cast<u32>(part) * LANES + lane;
                elementwise::Results<OUTPUTS> results;
                if constexpr (INPUTS == 1) results = elementwise::results_of(f(index, in[0][lane]));
                if constexpr (INPUTS == 2) results = elementwise::results_of(f(index, in[0][lane], in[1][lane]));
                if constexpr (INPUTS == 3) results = elementwise::results_of(f(index, in[0][lane], in[1][lane], in[2][lane]));
#pragma unroll
                for (u32 o = 0; o < OUTPUTS; o++) out[o][lane] = results.values[o];
            }
#pragma unroll
            for (u32 o = 0; o < OUTPUTS; o++) store_values(y[o] + part * LANES, out[o]);
        }
        done = parts * LANES;
    }
    for (u64 i = done + first; i < count; i += step) {
        u32 index = static_cast<u32>(i);
        elementwise::Results<OUTPUTS> results = elementwise::results_of(f(index, to_f32(x.data[x.view.at(index)])...));
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++) from_f32(y[o][i], results.values[o]);
    }
}

// The same for one output.
template <class T, class F, class... Operands>
__device__ inline void elementwise_to(T* y, u32 count, F f, const Operands&... x) {
    T* const outputs[1] = {y};
    elementwise_map(outputs, count, f, x...);
}
