// linear_nf4_group: yᵢ = x · Wᵢᵀ for up to four 4-bit weights of one inner size: q, k and v of a decode step, or gate and up. Longer lists, more rows and
// other types are the kernels of linear_nf4, once per weight.
//
// The ladder:
//   linear_nf4_group_decode_*  linear_nf4_decode for all weights in one launch: a grid as long as all columns keeps the device full where k or v alone
//                              would not
#include "common/nf4_decode.cuh"

// One weight: where its result goes, the tensor, its rows, and the first block that works on it.
struct Member {
    bf16* y;
    const u8 *codes, *absmax;
    const float *nested_absmax, *map, *table;
    Blocks blocks;
    u32 outer, first_block, unused;
};
struct Group {
    Member members[4];
};

// Grid Σ ⌈outerᵢ/16⌉, block 256, nf4::DECODE_BYTES of shared memory.
extern "C" __global__ void __launch_bounds__(nf4::DECODE_THREADS, 4)
    linear_nf4_group_decode_bf16(const bf16* x, Group group, u32 count, u32 rows, u32 inner) {
    // Chosen without a variable index, which would move the parameter to local memory.
    Member member = group.members[0];
#pragma unroll
    for (u32 i = 1; i < 4; i++) {
        if (i < count && blockIdx.x >= group.members[i].first_block) member = group.members[i];
    }
    Quantised q{member.codes, member.absmax, member.nested_absmax, member.map, member.table, member.blocks};
    nf4::decode(member.y, x, q, nullptr, nullptr, {nullptr, false, 1.0f}, rows, member.outer, inner, 0, blockIdx.x - member.first_block);
}
KERNEL(linear_nf4_group_decode_bf16)
