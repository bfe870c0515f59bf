// Kernels with one planted bug each, for the emulator's own tests (tests/faults.rs). Their correct siblings stand beside them.
#include "common/prelude.cuh"

// Sums the tiles of `in` [tiles, 64, 4]; each thread adds up what another thread has copied. Block 64, 2 KiB of shared memory.
template <bool WAIT, bool SECOND_BARRIER>
__device__ inline void pipeline(float* out, const float* in, u32 tiles) {
    DYNAMIC_SHARED(shared);
    u32 base = smem_u32(shared), t = threadIdx.x;
    cp_async16(base + t * 16, in + t * 4);
    cp_async_commit();
    float sum = 0.0f;
    for (u32 tile = 0; tile < tiles; tile++) {
        u32 stage = tile % 2 * 1024;
        if (tile + 1 < tiles) cp_async16(base + (1024 - stage) + t * 16, in + ((tile + 1) * 64 + t) * 4);
        cp_async_commit();
        if (WAIT) cp_async_wait<1>();
        block_sync();
        const float* values = reinterpret_cast<const float*>(shared + stage) + (63 - t) * 4;
        for (u32 i = 0; i < 4; i++) sum += values[i];
        if (SECOND_BARRIER) block_sync();
    }
    out[t] = sum;
}

extern "C" __global__ void pipeline_correct(float* out, const float* in, u32 tiles) { pipeline<true, true>(out, in, tiles); }
KERNEL(pipeline_correct)
extern "C" __global__ void pipeline_without_wait(float* out, const float* in, u32 tiles) { pipeline<false, true>(out, in, tiles); }
KERNEL(pipeline_without_wait)
extern "C" __global__ void pipeline_without_barrier(float* out, const float* in, u32 tiles) { pipeline<true, false>(out, in, tiles); }
KERNEL(pipeline_without_barrier)

// Every thread reads what its neighbour has written, without a barrier in between. Shared memory: 4 bytes a thread.
extern "C" __global__ void exchange_without_barrier(float* out) {
    DYNAMIC_SHARED(shared);
    float* values = reinterpret_cast<float*>(shared);
    values[threadIdx.x] = static_cast<float>(threadIdx.x);
    out[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}
KERNEL(exchange_without_barrier)

extern "C" __global__ void uninitialised_shared(float* out) {
    DYNAMIC_SHARED(shared);
    out[threadIdx.x] = reinterpret_cast<const float*>(shared)[threadIdx.x];
}
KERNEL(uninitialised_shared)

// `offset` in elements moves the access.
extern "C" __global__ void read_global(float* out, const float* in, i64 offset) { out[threadIdx.x] = in[offset + threadIdx.x]; }
KERNEL(read_global)
extern "C" __global__ void write_global(float* out, i64 offset) { out[offset + threadIdx.x] = 1.0f; }
KERNEL(write_global)
extern "C" __global__ void write_shared(float* out, i64 offset) {
    DYNAMIC_SHARED(shared);
    reinterpret_cast<float*>(shared)[offset + threadIdx.x] = 1.0f;
    out[threadIdx.x] = 1.0f;
}
KERNEL(write_shared)

// Copies 16 bytes a thread, the addresses moved by so many bytes.
extern "C" __global__ void copy_async_moved(float* out, const float* in, u32 shared_offset, u32 global_offset) {
    DYNAMIC_SHARED(shared);
    cp_async16(smem_u32(shared) + shared_offset + threadIdx.x * 16, reinterpret_cast<const u8*>(in) + global_offset + threadIdx.x * 16);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = reinterpret_cast<const float*>(shared)[threadIdx.x * 4];
}
KERNEL(copy_async_moved)

// One warp loads four matrices, the addresses moved by so many bytes.
extern "C" __global__ void ldmatrix_moved(u32* out, u32 offset) {
    DYNAMIC_SHARED(shared);
    for (u32 i = 0; i < 8; i++) reinterpret_cast<bf16*>(shared)[threadIdx.x * 8 + i] = static_cast<bf16>(threadIdx.x * 8 + i);
    warp_sync();
    u32 r[4];
    ldmatrix_x4(r, smem_u32(shared) + offset + threadIdx.x * 16);
    for (u32 i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = r[i];
}
KERNEL(ldmatrix_moved)

extern "C" __global__ void barrier_in_half_a_warp(float* out) {
    if (threadIdx.x % WARP_SIZE < 16) block_sync();
    out[threadIdx.x] = 1.0f;
}
KERNEL(barrier_in_half_a_warp)

extern "C" __global__ void barriers_of_two_branches(float* out) {
    if (threadIdx.x < 16) {
        block_sync();
    } else {
        block_sync();
    }
    out[threadIdx.x] = 1.0f;
}
KERNEL(barriers_of_two_branches)

extern "C" __global__ void mismatched_warp_operations(float* out) {
    float v = static_cast<float>(threadIdx.x);
    if (threadIdx.x < 16) {
        v = shfl_xor(v, 1);
    } else {
        v = static_cast<float>(ballot(v > 20.0f));
    }
    out[threadIdx.x] = v;
}
KERNEL(mismatched_warp_operations)

extern "C" __global__ void warp_operation_beside_barrier(float* out) {
    if (threadIdx.x < 16) {
        out[threadIdx.x] = shfl_xor(1.0f, 1);
    } else {
        block_sync();
    }
}
KERNEL(warp_operation_beside_barrier)

// The upper half of the warp has exited when the lower half reads its values.
extern "C" __global__ void shuffle_from_exited_lanes(float* out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = shfl_xor(1.0f, 16);
}
KERNEL(shuffle_from_exited_lanes)

// Warp 1 waits for a flag that nobody raises; warp 0 waits for warp 1.
extern "C" __global__ void wait_for_ever(float* out) {
    DYNAMIC_SHARED(shared);
    volatile u32* flag = reinterpret_cast<volatile u32*>(shared);
    if (threadIdx.x == 0) *flag = 0;
    block_sync();
    if (threadIdx.x >= WARP_SIZE) {
        while (*flag == 0) {
        }
    }
    block_sync();
    out[threadIdx.x] = 1.0f;
}
KERNEL(wait_for_ever)

// Whole warps may leave before a barrier.
extern "C" __global__ void early_exit_of_whole_warps(float* out) {
    if (threadIdx.x >= WARP_SIZE) return;
    block_sync();
    out[threadIdx.x] = 1.0f;
}
KERNEL(early_exit_of_whole_warps)

// Arguments of several sizes: out[i] = scale · i + shift.
extern "C" __global__ void arguments(float* out, u64 count, float scale, double shift) {
    u64 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = scale * static_cast<float>(i) + static_cast<float>(shift);
}
KERNEL(arguments)

// Every thread of every block adds 1 to the same sum.
extern "C" __global__ void count_threads(float* sum) { atomic_add_f32(sum, 1.0f); }
KERNEL(count_threads)
