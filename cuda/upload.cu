// upload: a few bytes from the host, which travel as an argument: a write that a graph can hold without memory of the host's.
//
// The ladder:
//   upload_u8  one thread a byte, up to 64
#include "common/prelude.cuh"

struct Bytes64 {
    u32 words[16];
};

// One block of 64.
extern "C" __global__ void __launch_bounds__(64) upload_u8(u8* y, Bytes64 bytes, u32 count) {
    u32 i = threadIdx.x, word = 0;
    // Masked, not chosen: a variable index would move the parameter to local memory, and so do sixteen conditions.
#pragma unroll
    for (u32 w = 0; w < 16; w++) word |= bytes.words[w] & (0u - static_cast<u32>(i / 4 == w));
    if (i < count) y[i] = static_cast<u8>(word >> (i % 4 * 8));
}
KERNEL(upload_u8)
