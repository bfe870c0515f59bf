// A product of a warpgroup with planted bugs, for the emulator's own tests (tests/emulated/warpgroup.rs).
#include "common/warpgroup.cuh"

enum Fault : u32 { NONE, NO_PROXY_FENCE, NO_FENCE, NO_WAIT, NO_EXCHANGE, WRONG_STRIDE, WRONG_MODE, ASKEW, TOO_EARLY, OTHER_WARP, OUTSIDE };

// out [64, 128] = a [64, 64] · bᵀ, b [128, 64]. Block 128, 24 KiB of shared memory.
extern "C" __global__ void warpgroup_product(float* out, const bf16* a, const bf16* b, u32 fault) {
    DYNAMIC_SHARED(shared);
    u32 left = smem_u32(shared), right = left + warpgroup::bytes<64>();
    auto load = [=](u32 to, const bf16* from, u32 lines) {
        for (u32 i = threadIdx.x; i < lines * 8; i += blockDim.x) {
            u32 line = i / 8, chunk = i % 8;
            cp_async16(to + line * 128 + (fault == NO_EXCHANGE ? chunk : chunk ^ (line & 7)) * 16, from + i * 8);
        }
    };
    load(left, a, 64);
    load(right, b, 128);
    cp_async_commit();
    cp_async_wait<0>();
    if (fault != NO_PROXY_FENCE) proxy_fence();
    block_sync();
    float sums[1][64] = {};
    if (fault != NO_FENCE) wgmma_fence();
    for (u32 k = 0; k < 64; k += 16) {
        u64 of_a = warpgroup::descriptor<tile::ALONG>(left, 0, k), of_b = warpgroup::descriptor<tile::ALONG>(right, 0, k);
        if (fault == WRONG_STRIDE) of_b -= 32ull << 32;
        if (fault == WRONG_MODE) of_a ^= 3ull << 62;
        if (fault == ASKEW) of_a += 128 >> 4;
        if (fault == OUTSIDE) of_b += 16384 >> 4;
        if (fault == OTHER_WARP && warp_id() == 2 && k == 0) of_a += 2;
        wgmma_bf16_64x128x16<0, 0>(sums[0], of_a, of_b);
    }
    wgmma_commit();
    if (fault == TOO_EARLY) {
        for (u32 i = threadIdx.x; i < 64 * 64; i += blockDim.x) reinterpret_cast<bf16*>(shared)[i] = 0;
    }
    if (fault != NO_WAIT) wgmma_wait<0>(sums);
    for (u32 i = 0; i < 64; i++) {
        u32 row = warp_id() * 16 + lane_id() / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane_id() % 4 * 2 + i % 2;
        out[row * 128 + column] = sums[0][i];
    }
}
KERNEL(warpgroup_product)
