// The prelude's names on the device: PTX for what the language has no word for. sm_80 and later.
#pragma once
#include "common/types.cuh"

#define KERNEL(name)
// One name and one alignment for all kernels of a source: the memory is one array to the linker.
#define DYNAMIC_SHARED(name)                                    \
    extern __shared__ __align__(1024) unsigned char dynamic_shared[]; \
    u8* name = dynamic_shared

__device__ inline u32 smem_u32(const void* pointer) { return static_cast<u32>(__cvta_generic_to_shared(pointer)); }

__device__ inline void block_sync() { __syncthreads(); }
__device__ inline void warp_sync() { __syncwarp(); }

template <class T>
__device__ inline T shfl_xor(T value, u32 mask) {
    static_assert(sizeof(T) == 4, "32-bit values");
    return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}
template <class T>
__device__ inline T shfl_idx(T value, u32 lane) {
    static_assert(sizeof(T) == 4, "32-bit values");
    return __shfl_sync(0xffffffffu, value, static_cast<int>(lane));
}
__device__ inline u32 ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

// `.cg`: past L1, which a tile that is read once from global memory would only fill.
__device__ inline void cp_async16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(from)) : "memory");
}
__device__ inline void cp_async16_or_zero(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(valid ? 16u : 0u)
                 : "memory");
}
// Eight bytes go through L1: `.cg` takes sixteen alone.
__device__ inline void cp_async8_or_zero(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(valid ? 8u : 0u) : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ inline void ldmatrix_x4(u32 (&r)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ inline void ldmatrix_x4_trans(u32 (&r)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ inline void mma_bf16_16816(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
__device__ inline void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// To the compiler the sums are there when the product is issued: nothing that reads them may move before the wait.
template <int N, u32 PARTS>
__device__ inline void wgmma_wait(float (&sums)[PARTS][64]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
    if constexpr (N == 0) {
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
#pragma unroll
            for (u32 i = 0; i < 64; i++) asm volatile("" : "+f"(sums[part][i])::"memory");
        }
    }
}
#define SUMS4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS16(d, i) SUMS4(d, i), SUMS4(d, i + 4), SUMS4(d, i + 8), SUMS4(d, i + 12)
template <u32 A_ACROSS, u32 B_ACROSS>
__device__ inline void wgmma_bf16_64x128x16(float (&d)[64], u64 a, u64 b) {
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, 1, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, add, 1, 1, %66, %67;\n"
        "}\n"
        : SUMS16(d, 0), SUMS16(d, 16), SUMS16(d, 32), SUMS16(d, 48)
        : "l"(a), "l"(b), "n"(A_ACROSS), "n"(B_ACROSS));
}
#undef SUMS16
#undef SUMS4
#endif

__device__ inline u32x4 load16(const void* from) { return *static_cast<const u32x4*>(from); }
// Through the read-only path and first out of L1: weights that one thread reads once.
__device__ inline u32x4 load16_stream(const void* from) {
    u32x4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(from)));
    return v;
}
__device__ inline void store16(void* to, u32x4 v) { *static_cast<u32x4*>(to) = v; }

__device__ inline void atomic_add_f32(float* to, float value) { atomicAdd(to, value); }
__device__ inline u32 atomic_cas_u32(u32* at, u32 expected, u32 value) { return atomicCAS(at, expected, value); }

__device__ inline float exp2_fast(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

__device__ inline float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }

__device__ inline u32 f32_to_bits(float v) { return __float_as_uint(v); }
__device__ inline float f32_from_bits(u32 v) { return __uint_as_float(v); }
__device__ inline float bf16_to_f32(bf16 v) { return __uint_as_float(static_cast<u32>(v) << 16); }
__device__ inline bf16 f32_to_bf16(float v) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}
// The instruction's first source is the high half.
__device__ inline u32 pack_bf16x2(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
__device__ inline float f16_to_f32(f16 v) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
    return r;
}
__device__ inline f16 f32_to_f16(float v) {
    f16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
}
