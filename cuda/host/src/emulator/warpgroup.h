// Hopper's products of warpgroups, which run beside the threads that issue them (wgmma.mma_async), as the PTX ISA describes them.
//
// Under late copies a product is computed when it is waited for, from what shared memory holds then, and until then its sums are NaNs; else it is computed
// when it is issued. Either way it must follow a wgmma_fence, its four warps must issue the same, and it must not see what was copied into shared memory
// without a proxy_fence.
#pragma once
#include <cstdint>
#include <vector>

#include "block.h"

namespace emulator {

// One thread's view of a product of 64 lines of A by 128 of B over 16 of K.
struct WarpgroupProduct {
    float* sums;  // 64 registers
    uint64_t a, b;
    bool a_across, b_across;  // the lines lie across K
};

void warpgroup_fence(Where where);
void warpgroup_commit(Where where);
void warpgroup_wait(uint32_t groups, Where where);
void warpgroup_multiply(WarpgroupProduct product, Where where);

}  // namespace emulator
