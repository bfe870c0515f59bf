// concat: one part of a concatenation, launched once for each: element i of x goes to y[i / run · pitch + i % run]. Types do not matter, only sizes.
//
// The ladder:
//   concat_*  16 bytes a thread where x is dense and runs, pitch and pointers are multiples of that; one element elsewhere
#include "common/layout.cuh"

template <class T>
__device__ inline void concat(T* y, const T* x, const View& view, u32 count, u32 run, u32 pitch) {
    constexpr u32 LANES = 16 / sizeof(T);
    u64 first = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x, step = static_cast<u64>(gridDim.x) * blockDim.x;
    auto place = [=](u32 i) { return static_cast<u64>(i / run) * pitch + i % run; };
    if (view.dense() && aligned(x, 16) && aligned(y, 16) && run % LANES == 0 && pitch % LANES == 0) {
        for (u64 i = first * LANES; i < count; i += step * LANES) store16(y + place(static_cast<u32>(i)), load16(x + i));
        return;
    }
    for (u64 i = first; i < count; i += step) y[place(static_cast<u32>(i))] = x[view.at(static_cast<u32>(i))];
}

#define CONCAT(bytes, T)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        concat_##bytes(T* y, const T* x, View view, u32 count, u32 run, u32 pitch) {                   \
        concat(y, x, view, count, run, pitch);                                                         \
    }                                                                                                  \
    KERNEL(concat_##bytes)

CONCAT(1, u8)
CONCAT(2, u16)
CONCAT(4, u32)
