// The order in which a block's threads run. CUDA promises none, so a kernel must be right under all of them: each test runs the
// four combinations below, and each bug of a class shows under at least one.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

enum class Order {
    // One warp runs as far as it gets before any other: finds buffers that are overwritten while others still read them.
    greedy,
    // Threads take turns at every synchronising operation: finds data that is read before others have written it.
    round_robin,
};

enum class Copies {
    // An asynchronous copy is there at once, the earliest legal moment: finds targets that are still in use.
    eager,
    // It is there when it is waited for, the latest; until then its target holds NaNs: finds missing waits.
    lazy,
};

struct Schedule {
    Order order = Order::round_robin;
    Copies copies = Copies::lazy;
    uint64_t seed = 1;
};

// SplitMix64 (Steele et al. 2014): shuffles need no better.
struct Random {
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    template <class Values>
    void shuffle(Values& values) {
        for (size_t i = values.size(); i > 1; i--) {
            size_t j = static_cast<size_t>(next() % i);
            auto swapped = values[i - 1];
            values[i - 1] = values[j];
            values[j] = swapped;
        }
    }
};

}  // namespace emulator
