// argmax: y[row] = the place of the row's largest element; the lowest among equals (−0 and 0 are equal), NaN above all.
//
// The ladder:
//   argmax_*  a block a row, one pass; of 1024 threads where the row is long, as a vocabulary is: one multiprocessor's loads under way are what limits it
#include "common/rows.cuh"

// Grid `rows`, block 256 or 1024, BLOCK_REDUCE_BYTES of shared memory.
#define ARGMAX(suffix, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(1024) argmax_##suffix(u32* y, const T* x, Rows rows, u32 n) {  \
        DYNAMIC_SHARED(shared);                                                                                 \
        Ranked best{0, NO_PLACE};                                                                               \
        row_each(                                                                                               \
            n,                                                                                                  \
            [&best](u32 i, float v) {                                                                           \
                Ranked here{order_key(v), i};                                                                   \
                if (here.before(best)) best = here;                                                             \
            },                                                                                                  \
            line_of(x, rows, blockIdx.x));                                                                      \
        best = block_reduce_first(best, reinterpret_cast<u32*>(shared));                                        \
        if (threadIdx.x == 0) y[blockIdx.x] = best.place;                                                       \
    }                                                                                                           \
    KERNEL(argmax_##suffix)

FOR_FLOATS(ARGMAX)
