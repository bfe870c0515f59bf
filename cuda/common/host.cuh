// The prelude's names on the host, for the emulator (`cuda/host/src/emulator`). Each checks what hardware leaves to chance, and each
// that can wait or fail takes the caller's line, so that messages name it.
#pragma once
#include <atomic>
#include <cmath>
#include <cstring>

#include "common/types.cuh"
#include "emulator/launch.h"
#include "emulator/warp.h"
#include "emulator/warpgroup.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (emulator::running->current->index)
#define blockIdx (emulator::running->index)
#define blockDim (emulator::running->launch->block)
#define gridDim (emulator::running->launch->grid)

#define KERNEL(name) static const emulator::Registration<&name> registration_of_##name(#name);
#define DYNAMIC_SHARED(name) u8* name = reinterpret_cast<u8*>(emulator::running->shared)

// The line that calls, as the last parameters of a function; HERE hands it on.
#define CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define HERE \
    emulator::Where { file, line }

inline u32 smem_u32(const void* pointer, CALLER) {
    emulator::Block& block = *emulator::running;
    std::ptrdiff_t offset = static_cast<const char*>(pointer) - block.shared;
    // One past the end is an address too, as long as nothing reads there.
    if (offset < 0 || offset > static_cast<std::ptrdiff_t>(block.launch->shared_bytes)) {
        block.shared_at(static_cast<u32>(emulator::SHARED_BASE + offset), 1, 1, "smem_u32", HERE);
    }
    return static_cast<u32>(emulator::SHARED_BASE + offset);
}

inline void block_sync(CALLER) { emulator::running->barrier(HERE); }
inline void warp_sync(CALLER) {
    emulator::Meeting meeting;
    emulator::running->operate(emulator::MEETING, &meeting, HERE);
}

template <class T>
inline T shuffle(const emulator::Operation& operation, T value, u32 source, emulator::Where where) {
    static_assert(sizeof(T) == 4, "32-bit values");
    emulator::Shuffle own{0, source, 0};
    std::memcpy(&own.value, &value, 4);
    emulator::running->operate(operation, &own, where);
    std::memcpy(&value, &own.result, 4);
    return value;
}
template <class T>
inline T shfl_xor(T value, u32 mask, CALLER) {
    return shuffle(emulator::SHUFFLE_XOR, value, emulator::running->current->linear ^ mask, HERE);
}
template <class T>
inline T shfl_idx(T value, u32 lane, CALLER) {
    return shuffle(emulator::SHUFFLE_INDEX, value, lane, HERE);
}
inline u32 ballot(bool predicate, CALLER) {
    emulator::Vote own{predicate, 0};
    emulator::running->operate(emulator::VOTE, &own, HERE);
    return own.result;
}

inline void copy_async(u32 to, const void* from, u32 bytes, bool valid, const char* operation, emulator::Where where) {
    emulator::Block& block = *emulator::running;
    char* target = block.shared_at(to, bytes, bytes, operation, where);
    if (valid) block.check_global(from, bytes, bytes, operation, where);
    block.copy_async(target, static_cast<const char*>(from), bytes, !valid);
}
inline void cp_async16_or_zero(u32 to, const void* from, bool valid, CALLER) {
    copy_async(to, from, 16, valid, "cp_async16", HERE);
}
inline void cp_async8_or_zero(u32 to, const void* from, bool valid, CALLER) {
    copy_async(to, from, 8, valid, "cp_async8", HERE);
}
inline void cp_async16(u32 to, const void* from, CALLER) {
    cp_async16_or_zero(to, from, true, file, line);
}
inline void cp_async_commit() { emulator::running->commit_copies(); }
template <int N>
inline void cp_async_wait() {
    emulator::running->wait_copies(N);
}

inline void load_matrix(const emulator::Operation& operation, u32 (&r)[4], u32 row, emulator::Where where) {
    emulator::Block& block = *emulator::running;
    const char* source = block.shared_at(row, 16, 16, operation.name, where);
    emulator::MatrixLoad own{reinterpret_cast<const uint16_t*>(source), {}};
    block.operate(operation, &own, where);
    std::memcpy(r, own.result, sizeof r);
}
inline void ldmatrix_x4(u32 (&r)[4], u32 row, CALLER) {
    load_matrix(emulator::LOAD_MATRIX, r, row, HERE);
}
inline void ldmatrix_x4_trans(u32 (&r)[4], u32 row, CALLER) {
    load_matrix(emulator::LOAD_MATRIX_TRANSPOSED, r, row, HERE);
}
inline void mma_bf16_16816(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, CALLER) {
    emulator::MatrixProduct own{a, {b0, b1}, d};
    emulator::running->operate(emulator::MULTIPLY_MATRIX, &own, HERE);
}

inline void proxy_fence() { emulator::running->fence_proxy(); }
inline void wgmma_fence(CALLER) { emulator::warpgroup_fence(HERE); }
inline void wgmma_commit(CALLER) { emulator::warpgroup_commit(HERE); }
template <int N, u32 PARTS>
inline void wgmma_wait(float (&)[PARTS][64], CALLER) {
    emulator::warpgroup_wait(N, HERE);
}
template <u32 A_ACROSS, u32 B_ACROSS>
inline void wgmma_bf16_64x128x16(float (&d)[64], u64 a, u64 b, CALLER) {
    emulator::warpgroup_multiply({d, a, b, A_ACROSS != 0, B_ACROSS != 0}, HERE);
}

inline u32x4 load16(const void* from, CALLER) {
    emulator::running->check_global(from, 16, 16, "load16", HERE);
    return *static_cast<const u32x4*>(from);
}
inline u32x4 load16_stream(const void* from, CALLER) {
    emulator::running->check_global(from, 16, 16, "load16_stream", HERE);
    return *static_cast<const u32x4*>(from);
}
inline void store16(void* to, u32x4 v, CALLER) {
    emulator::running->check_global(to, 16, 16, "store16", HERE);
    *static_cast<u32x4*>(to) = v;
}


inline void atomic_add_f32(float* to, float value, CALLER) {
    emulator::running->check_global(to, 4, 4, "atomic_add_f32", HERE);
    // Blocks run on several OS threads.
    u32* bits = reinterpret_cast<u32*>(to);
    u32 old = __atomic_load_n(bits, __ATOMIC_RELAXED), sum;
    do {
        float current;
        std::memcpy(&current, &old, 4);
        current += value;
        std::memcpy(&sum, &current, 4);
    } while (!__atomic_compare_exchange_n(bits, &old, sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

inline u32 atomic_cas_u32(u32* at, u32 expected, u32 value, CALLER) {
    emulator::running->check_global(at, 4, 4, "atomic_cas_u32", HERE);
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

// Two roundings are two: the build says -ffp-contract=off.
inline float mul_rn(float a, float b) { return a * b; }
inline float add_rn(float a, float b) { return a + b; }
inline float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }

inline u32 f32_to_bits(float v) {
    u32 bits;
    std::memcpy(&bits, &v, 4);
    return bits;
}
inline float f32_from_bits(u32 bits) {
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}
inline float bf16_to_f32(bf16 v) { return f32_from_bits(static_cast<u32>(v) << 16); }
// To the nearest, ties to even; every NaN becomes 0x7fff, as the instruction gives it.
inline bf16 f32_to_bf16(float v) {
    u32 bits = f32_to_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<bf16>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
inline u32 pack_bf16x2(float low, float high) {
    return static_cast<u32>(f32_to_bf16(low)) | static_cast<u32>(f32_to_bf16(high)) << 16;
}

inline float f16_to_f32(f16 v) {
    u32 sign = static_cast<u32>(v.bits & 0x8000u) << 16, exponent = v.bits >> 10 & 31, fraction = v.bits & 0x3ffu;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0) return f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float subnormal = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}
// To the nearest, ties to even; every NaN becomes 0x7fff.
inline f16 f32_to_f16(float v) {
    u32 bits = f32_to_bits(v), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return {0x7fff};
    // From halfway between the largest value and the next power of two on.
    if (size >= 0x477ff000u) return {static_cast<u16>(sign | 0x7c00u)};
    u32 rounded = size >= 0x38800000u ? (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13
                                      : static_cast<u32>(std::nearbyint(f32_from_bits(size) * 0x1p24f));
    return {static_cast<u16>(sign | rounded)};
}

inline float exp2_fast(float v) { return std::exp2(v); }
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
