// cast: y = convert(x), contiguous; from a type to itself it is the copy that makes a view contiguous.
//
// The ladder:
//   cast_*  16 bytes of the wider type a thread where x is dense, one element elsewhere (common/convert.cuh)
#include "common/convert.cuh"

#define CAST(from, From, to, To)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) cast_##from##_##to(To* y, const From* x, View view, u32 count) {     \
        View dense{{count}, {1}, 1};                                                                                       \
        convert_elements(y, x, dense, view, count);                                                                        \
    }                                                                                                                      \
    KERNEL(cast_##from##_##to)

FOR_CONVERSIONS(CAST)
