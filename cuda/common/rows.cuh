// Going over rows with one block each: 16 bytes a thread at a time where rows lie so, else one element.
#pragma once
#include "common/layout.cuh"
#include "common/reduce.cuh"

// A row: its elements and their distance.
template <class T>
struct Line {
    const T* data;
    u32 step;
};

// Row `row` of [rows…, n].
template <class T>
__device__ inline Line<T> line_of(const T* x, const Rows& rows, u32 row) {
    return {x + rows.rows.at(row), rows.step};
}

// Whether a line of n elements can be read 16 bytes at a time; the same for all threads of a block.
template <class T>
__device__ inline bool line_wide(const Line<T>& line, u32 n) {
    return line.step == 1 && n % (16 / sizeof(T)) == 0 && aligned(line.data, 16);
}

// `f(i, values…)` for this thread's share of the elements.
template <class T, class F, class... Lines>
__device__ inline void row_each(u32 n, F f, const Line<T>& first, const Lines&... others) {
    constexpr u32 LANES = 16 / sizeof(T), INPUTS = 1 + sizeof...(Lines);
    static_assert(INPUTS <= 3, "as operations have them");
    const Line<T> lines[INPUTS] = {first, others...};
    if (line_wide(first, n) && (line_wide(others, n) && ...)) {
        for (u32 at = threadIdx.x * LANES; at < n; at += blockDim.x * LANES) {
            float values[INPUTS][LANES];
#pragma unroll
            for (u32 k = 0; k < INPUTS; k++) load_values(values[k], lines[k].data + at);
#pragma unroll
            for (u32 lane = 0; lane < LANES; lane++) {
                if constexpr (INPUTS == 1) f(at + lane, values[0][lane]);
                if constexpr (INPUTS == 2) f(at + lane, values[0][lane], values[1][lane]);
                if constexpr (INPUTS == 3) f(at + lane, values[0][lane], values[1][lane], values[2][lane]);
            }
        }
        return;
    }
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        auto value = [i](const Line<T>& line) { return to_f32(line.data[static_cast<u64>(i) * line.step]); };
        if constexpr (INPUTS == 1) f(i, value(lines[0]));
        if constexpr (INPUTS == 2) f(i, value(lines[0]), value(lines[1]));
        if constexpr (INPUTS == 3) f(i, value(lines[0]), value(lines[1]), value(lines[2]));
    }
}

// y[i] = f(i, values…), rounded once, for the whole row.
template <class T, class F, class... Lines>
__device__ inline void row_map(T* y, u32 n, F f, const Line<T>& first, const Lines&... others) {
    constexpr u32 LANES = 16 / sizeof(T), INPUTS = 1 + sizeof...(Lines);
    static_assert(INPUTS <= 3, "as operations have them");
    const Line<T> lines[INPUTS] = {first, others...};
    if (line_wide(first, n) && (line_wide(others, n) && ...) && aligned(y, 16)) {
        for (u32 at = threadIdx.x * LANES; at < n; at += blockDim.x * LANES) {
            float values[INPUTS][LANES], out[LANES];
#pragma unroll
            for (u32 k = 0; k < INPUTS; k++) load_values(values[k], lines[k].data + at);
#pragma unroll
            for (u32 lane = 0; lane < LANES; lane++) {
                if constexpr (INPUTS == 1) out[lane] = f(at + lane, values[0][lane]);
                if constexpr (INPUTS == 2) out[lane] = f(at + lane, values[0][lane], values[1][lane]);
                if constexpr (INPUTS == 3) out[lane] = f(at + lane, values[0][lane], values[1][lane], values[2][lane]);
            }
            store_values(y + at, out);
        }
        return;
    }
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        auto value = [i](const Line<T>& line) { return to_f32(line.data[static_cast<u64>(i) * line.step]); };
        if constexpr (INPUTS == 1) from_f32(y[i], f(i, value(lines[0])));
        if constexpr (INPUTS == 2) from_f32(y[i], f(i, value(lines[0]), value(lines[1])));
        if constexpr (INPUTS == 3) from_f32(y[i], f(i, value(lines[0]), value(lines[1]), value(lines[2])));
    }
}
