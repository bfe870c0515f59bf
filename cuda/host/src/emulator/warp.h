// What the lanes of a warp do together: exchanges, matrix loads, matrix products.
#pragma once
#include <cstdint>

#include "block.h"

namespace emulator {

// A shuffle of one 32-bit value: `value` of lane `source` becomes `result`.
struct Shuffle {
    uint32_t value;
    uint32_t source;
    uint32_t result;
};

// `ldmatrix.x4`: `row` points to 8 bf16 values of shared memory.
struct MatrixLoad {
    const uint16_t* row;
    uint32_t result[4];
};

// `mma.m16n8k16`, bf16 operands: `d += a · b`.
struct MatrixProduct {
    const uint32_t* a;  // 4 registers
    uint32_t b[2];
    float* d;  // 4 registers
};

// A vote: `result` has the bit of every lane whose `value` is not zero.
struct Vote {
    uint32_t value;
    uint32_t result;
};

// Nothing is exchanged: `__syncwarp`.
struct Meeting {};

extern const Operation SHUFFLE_XOR, SHUFFLE_INDEX, VOTE, MEETING, LOAD_MATRIX, LOAD_MATRIX_TRANSPOSED, MULTIPLY_MATRIX;

}  // namespace emulator
