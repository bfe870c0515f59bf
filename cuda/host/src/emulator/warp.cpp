#include "warp.h"

#include <cstring>

namespace emulator {
namespace {

float widen(uint32_t bf16) {
    uint32_t bits = bf16 << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// A lane that has exited has no value: whoever reads it gets a NaN.
void shuffle(void* const* operands, uint32_t present) {
    for (uint32_t lane = 0; lane < WARP; lane++) {
        if (!(present >> lane & 1)) continue;
        auto* own = static_cast<Shuffle*>(operands[lane]);
        uint32_t source = own->source % WARP;
        own->result = present >> source & 1 ? static_cast<Shuffle*>(operands[source])->value : ~0u;
    }
}

void vote(void* const* operands, uint32_t present) {
    uint32_t result = 0;
    for (uint32_t lane = 0; lane < WARP; lane++) {
        if (present >> lane & 1 && static_cast<Vote*>(operands[lane])->value != 0) result |= 1u << lane;
    }
    for (uint32_t lane = 0; lane < WARP; lane++) {
        if (present >> lane & 1) static_cast<Vote*>(operands[lane])->result = result;
    }
}

void meet(void* const*, uint32_t) {}

// Lane 8i + r gives the address of row r of matrix i. Lane l receives of each matrix row l / 4, columns 2(l mod 4) and the next;
// transposed, column l / 4, rows 2(l mod 4) and the next (PTX ISA, ldmatrix).
template <bool transposed>
void load_matrix(void* const* operands, uint32_t) {
    for (uint32_t matrix = 0; matrix < 4; matrix++) {
        uint16_t values[8][8];
        for (uint32_t row = 0; row < 8; row++) {
            std::memcpy(values[row], static_cast<MatrixLoad*>(operands[8 * matrix + row])->row, 16);
        }
        for (uint32_t lane = 0; lane < WARP; lane++) {
            uint32_t major = lane / 4, minor = 2 * (lane % 4);
            uint32_t low = transposed ? values[minor][major] : values[major][minor];
            uint32_t high = transposed ? values[minor + 1][major] : values[major][minor + 1];
            static_cast<MatrixLoad*>(operands[lane])->result[matrix] = low | high << 16;
        }
    }
}

// Fragments of mma.m16n8k16 with bf16 operands (PTX ISA); g = lane / 4, t = lane mod 4:
// a0 (row g, columns 2t, 2t+1), a1 (row g+8), a2 (columns 2t+8, 2t+9), a3 (row g+8, columns 2t+8, 2t+9);
// b0 (rows 2t, 2t+1, column g), b1 (rows 2t+8, 2t+9); d0, d1 (row g, columns 2t, 2t+1), d2, d3 (row g+8).
// The hardware's own order of additions is not documented; here it is by rising k in f32.
void multiply_matrix(void* const* operands, uint32_t) {
    float a[16][16], b[16][8];
    for (uint32_t lane = 0; lane < WARP; lane++) {
        const auto* own = static_cast<const MatrixProduct*>(operands[lane]);
        uint32_t g = lane / 4, t = 2 * (lane % 4);
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t shift = 16 * half;
            a[g][t + half] = widen(own->a[0] >> shift & 0xffff);
            a[g + 8][t + half] = widen(own->a[1] >> shift & 0xffff);
            a[g][t + 8 + half] = widen(own->a[2] >> shift & 0xffff);
            a[g + 8][t + 8 + half] = widen(own->a[3] >> shift & 0xffff);
            b[t + half][g] = widen(own->b[0] >> shift & 0xffff);
            b[t + 8 + half][g] = widen(own->b[1] >> shift & 0xffff);
        }
    }
    float d[16][8] = {};
    for (uint32_t row = 0; row < 16; row++) {
        for (uint32_t k = 0; k < 16; k++) {
            for (uint32_t column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
        }
    }
    for (uint32_t lane = 0; lane < WARP; lane++) {
        float* own = static_cast<const MatrixProduct*>(operands[lane])->d;
        uint32_t g = lane / 4, t = 2 * (lane % 4);
        own[0] += d[g][t];
        own[1] += d[g][t + 1];
        own[2] += d[g + 8][t];
        own[3] += d[g + 8][t + 1];
    }
}

}  // namespace

const Operation SHUFFLE_XOR{"shfl_xor", false, false, shuffle};
const Operation SHUFFLE_INDEX{"shfl_idx", false, false, shuffle};
const Operation VOTE{"ballot", false, false, vote};
const Operation MEETING{"warp_sync", false, false, meet};
const Operation LOAD_MATRIX{"ldmatrix_x4", true, true, load_matrix<false>};
const Operation LOAD_MATRIX_TRANSPOSED{"ldmatrix_x4_trans", true, true, load_matrix<true>};
const Operation MULTIPLY_MATRIX{"mma_bf16_16816", true, true, multiply_matrix};

}  // namespace emulator
