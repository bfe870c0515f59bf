// dropout: y = x · scale where the hash of the element's number is not below `threshold`, else 0. Nothing is stored: the backward pass draws the
// same mask.
//
// The ladder:
//   dropout_*  as unary
#include "common/dropout.cuh"
#include "common/elementwise.cuh"

#define DROPOUT(suffix, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        dropout_##suffix(T* y, const T* x, View view, u32 count, u32 low, u32 high, u32 threshold, float scale) {          \
        Dropout dropout{low, high, threshold, scale};                                                                      \
        elementwise_to(y, count, [=](u32 index, float v) { return dropout.of(index, v); }, Operand<T>{x, view});           \
    }                                                                                                                      \
    KERNEL(dropout_##suffix)

FOR_FLOATS(DROPOUT)
