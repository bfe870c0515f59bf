// write: target = convert(x) in place; both are views. The key-value cache is filled so.
//
// The ladder:
//   write_*  as cast
#include "common/convert.cuh"

#define WRITE(from, From, to, To)                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                            \
        write_##from##_##to(To* y, const From* x, View y_view, View x_view, u32 count) {         \
        convert_elements(y, x, y_view, x_view, count);                                           \
    }                                                                                            \
    KERNEL(write_##from##_##to)

FOR_CONVERSIONS(WRITE)
