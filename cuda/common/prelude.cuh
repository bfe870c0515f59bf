// What every kernel includes, and all that it may use of the machine. The same source is compiled by NVRTC or nvcc for the device and
// by a host C++17 compiler for the emulator (`cuda/host`); the difference is in `device.cuh` and `host.cuh`, which offer the same names:
//
//   KERNEL(name)                      registers an entry point for the emulator; nothing on the device
//   DYNAMIC_SHARED(name)              the block's shared memory, as bytes; 1024-byte aligned. There is no other kind
//   smem_u32(pointer)                 the address of shared memory that the instructions below take
//   block_sync(), warp_sync()         barriers, reached by all threads of the block or warp at one line
//   shfl_xor(v, mask), shfl_idx(v, l) another lane's 32-bit value; ballot(p) the lanes where p holds
//   cp_async16(to, from)              copies 16 bytes from global to shared memory, both 16-byte aligned, without waiting
//   cp_async16_or_zero(to, from, ok)  the same, or zeros where !ok; then `from` is not read
//   cp_async8_or_zero(to, from, ok)   the same with 8 bytes, 8-byte aligned
//   cp_async_commit()                 closes this thread's copies into a group
//   cp_async_wait<N>()                waits until at most this thread's N latest groups are under way; other threads' copies are seen
//                                     after a block_sync
//   ldmatrix_x4(r, row)               four 8x8 matrices of bf16, lane 8i + r giving the address of row r of matrix i
//   ldmatrix_x4_trans(r, row)         the same, each transposed
//   mma_bf16_16816(d, a, b0, b1)      d += a · b: 16x16 by 16x8, f32 sums (fragments: PTX ISA, mma.m16n8k16)
//   load16(p), store16(p, v)          16 bytes of global memory, aligned; load16_stream(p) for what is read once
//   atomic_add_f32(p, v)              in global memory; the order of additions is not fixed
//   atomic_cas_u32(p, old, v)         in global memory: v if old stood there; what stood there
//   f16_to_f32, f32_to_f16, bf16_to_f32, f32_to_bf16, pack_bf16x2(low, high)   conversions, to the nearest, ties to even
//   exp2_fast(v)                      2^v by one instruction, good to 2 ulp; exp2f spends three more on subnormal results
//   f32_to_bits, f32_from_bits        the same 32 bits
//   mul_rn(a, b), add_rn(a, b)        a product, a sum, rounded by itself; fma_rn(a, b, c) a · b + c, rounded once. Device compilers make one
//                                     rounding of two in `a * b + c`, each time as they like: where two kernels, or a kernel and the processor,
//                                     must have the same bits, these say which
//
// Hopper's own, for sm_90a (the macro HOPPER says where they are):
//
//   wgmma_bf16_64x128x16<A, B>(d, a, b)  d += a · b: 64x16 by 16x128, f32 sums, by the four warps of a warpgroup, operands in shared memory by their
//                                     descriptors (warpgroup.cuh); A, B: 1 if the operand's lines lie across K. Returns before it is done
//   wgmma_fence()                     before the first product after other uses of `d`
//   wgmma_commit(), wgmma_wait<N>(d)  as with copies: until at most the N latest groups are under way; before that `d` is nobody's to touch
//   proxy_fence()                     what this thread wrote to shared memory, its copies included, is seen by products after the next barrier
//
// Mbarriers, bulk copies and clusters are not wrapped; they come with the first kernel that uses them.
//
// Rules: no CUDA or standard header, no inline assembly outside `device.cuh`, no function-local `__shared__`, entry points `extern "C"`
// with raw pointers, scalars and the structs of `layout.cuh` by value only, and no exchange between lanes without one of the names above.
#pragma once
#include "common/types.cuh"

#if defined(__CUDACC__)
#include "common/device.cuh"
#else
#include "common/host.cuh"
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
#define HOPPER 1
#endif

__device__ inline u32 lane_id() { return threadIdx.x % WARP_SIZE; }
__device__ inline u32 warp_id() { return threadIdx.x / WARP_SIZE; }

__device__ inline u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }
__device__ inline u32 min_u32(u32 a, u32 b) { return a < b ? a : b; }

// The low and high half of a pair as f32.
__device__ inline float bf16x2_low(u32 pair) { return f32_from_bits(pair << 16); }
__device__ inline float bf16x2_high(u32 pair) { return f32_from_bits(pair & 0xffff0000u); }

// Element access by type, for kernels that are templates over f32, bf16 and f16.
__device__ inline float to_f32(float v) { return v; }
__device__ inline float to_f32(bf16 v) { return bf16_to_f32(v); }
__device__ inline float to_f32(f16 v) { return f16_to_f32(v); }
__device__ inline void from_f32(float& to, float v) { to = v; }
__device__ inline void from_f32(bf16& to, float v) { to = f32_to_bf16(v); }
__device__ inline void from_f32(f16& to, float v) { to = f32_to_f16(v); }
// The value after it has been stored as a `T`.
template <class T>
__device__ inline float round_as(T, float v) {
    T stored;
    from_f32(stored, v);
    return to_f32(stored);
}

__device__ inline bool is_nan(float v) { return v != v; }
__device__ inline float infinity() { return f32_from_bits(0x7f800000u); }

// Whether `pointer` is a multiple of `bytes`, a power of two.
__device__ inline bool aligned(const void* pointer, u32 bytes) { return (reinterpret_cast<u64>(pointer) & (bytes - 1)) == 0; }

// N neighbouring values by one instruction of 8, or by some of 16 bytes, to whose size the pointer is aligned.
template <class T, u32 N>
__device__ inline void load_values(float (&to)[N], const T* from) {
    constexpr u32 BYTES = N * sizeof(T), PART = BYTES < 16 ? BYTES : 16;
    static_assert(PART == 8 || (PART == 16 && BYTES % 16 == 0), "whole instructions");
    union {
        u32x4 wide[BYTES < 16 ? 1 : BYTES / 16];
        u32x2 narrow;
        T values[N];
    } raw;
    if constexpr (PART == 8) {
        raw.narrow = *reinterpret_cast<const u32x2*>(from);
    } else {
#pragma unroll
        for (u32 i = 0; i < BYTES / 16; i++) raw.wide[i] = load16(from + i * (16 / sizeof(T)));
    }
#pragma unroll
    for (u32 i = 0; i < N; i++) to[i] = to_f32(raw.values[i]);
}
template <class T, u32 N>
__device__ inline void store_values(T* to, const float (&from)[N]) {
    constexpr u32 BYTES = N * sizeof(T);
    static_assert(BYTES == 8 || BYTES % 16 == 0, "whole instructions");
    union {
        u32x4 wide[BYTES < 16 ? 1 : BYTES / 16];
        u32x2 narrow;
        T values[N];
    } raw;
#pragma unroll
    for (u32 i = 0; i < N; i++) from_f32(raw.values[i], from[i]);
    if constexpr (BYTES == 8) {
        *reinterpret_cast<u32x2*>(to) = raw.narrow;
    } else {
#pragma unroll
        for (u32 i = 0; i < BYTES / 16; i++) store16(to + i * (16 / sizeof(T)), raw.wide[i]);
    }
}

// M(suffix, type) for each floating element type; for each that parameters and products have.
#define FOR_FLOATS(M) M(f32, float) M(bf16, bf16) M(f16, f16)
#define FOR_PARAMETERS(M) M(f32, float) M(bf16, bf16)
