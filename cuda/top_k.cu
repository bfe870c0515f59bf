// top_k: the k largest elements of each row in descending order, as f32, and their places; ordered as in argmax.
//
// The ladder:
//   top_k_*  a block a row; each of k passes finds the first element behind the last one found. A row of a vocabulary stays in L2.
#include "common/rows.cuh"

// Grid `rows`, block 256, BLOCK_REDUCE_BYTES of shared memory.
#define TOP_K(suffix, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        top_k_##suffix(float* values, u32* indices, const T* x, Rows rows, u32 n, u32 k) {                                 \
        DYNAMIC_SHARED(shared);                                                                                            \
        Line<T> line = line_of(x, rows, blockIdx.x);                                                                       \
        Ranked last{0, 0};                                                                                                 \
        for (u32 j = 0; j < k; j++) {                                                                                      \
            Ranked best{0, NO_PLACE};                                                                                      \
            row_each(                                                                                                      \
                n,                                                                                                         \
                [&best, last, j](u32 i, float v) {                                                                         \
                    Ranked here{order_key(v), i};                                                                          \
                    if ((j == 0 || last.before(here)) && here.before(best)) best = here;                                   \
                },                                                                                                         \
                line);                                                                                                     \
            last = block_reduce_first(best, reinterpret_cast<u32*>(shared));                                               \
            if (threadIdx.x == 0) {                                                                                        \
                u64 at = static_cast<u64>(blockIdx.x) * k + j;                                                             \
                indices[at] = last.place;                                                                                  \
                values[at] = to_f32(line.data[static_cast<u64>(last.place) * line.step]);                                  \
            }                                                                                                              \
        }                                                                                                                  \
    }                                                                                                                      \
    KERNEL(top_k_##suffix)

FOR_FLOATS(TOP_K)
