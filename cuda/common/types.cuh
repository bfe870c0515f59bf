// Types of the kernels. NVRTC has no <cstdint>, and kernels include nothing but this folder.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "types have their names' sizes");

// A bf16 value is its bit pattern: the upper half of an f32.
typedef u16 bf16;

// So is an f16 value; a type of its own, or the two would be one to overloads.
struct f16 {
    u16 bits;
};

// Sixteen bytes, moved by one instruction.
struct alignas(16) u32x4 {
    u32 x, y, z, w;
};

struct alignas(8) u32x2 {
    u32 x, y;
};

constexpr u32 WARP_SIZE = 32;
