// Device memory: blocks of host memory between ranges that cannot be touched.
//
//   [no access][slack, filled][the block, 256-byte aligned][slack, filled][no access]
//
// A block ends as near to a page's end as its alignment allows, so that reading or writing a little too far faults, or falls into the
// slack: reads find NaNs there, and writes are found when the slack is checked, after each launch that was given the block and when it
// is freed. Under AddressSanitizer the slack is poisoned, and every stray access is reported with its line. New blocks are filled with
// NaNs. Freed blocks stay unmapped for a while: using one faults.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace emulator {

constexpr uint8_t POISON = 0xff;  // a NaN in bf16, f16 and f32, and an index out of every range

struct Range {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    bool holds(uintptr_t address, size_t bytes) const {
        return address >= begin && address <= end && bytes <= end - address;
    }
};

struct Allocation {
    uint64_t number = 0;  // counts from 1 in the order of allocation: how messages name a block
    size_t bytes = 0;
    char* start = nullptr;
    char* mapping = nullptr;
    size_t mapping_bytes = 0;
    bool pinned = false;  // host memory of cuMemHostAlloc
};

class Memory {
public:
    // Null where the device (`limit` bytes) or the host has no room.
    void* allocate(size_t bytes, size_t limit, bool pinned);
    // Why the block cannot be freed, or an empty string.
    std::string release(uintptr_t address, bool pinned);
    // Whether a whole range lies in one live block; `number` says in which.
    bool contains(uintptr_t address, size_t bytes, bool pinned = false);
    // A sentence on where an address lies: in a block, near one, in a freed one.
    std::string describe(uintptr_t address);
    // Complains of writes beside the blocks that hold `addresses`.
    std::string check_slack(const std::vector<uintptr_t>& addresses);
    // Live device and pinned blocks, as ranges sorted by address.
    std::vector<Range> live();
    // A sentence on blocks that are still live, empty if there are none; they are then freed.
    std::string release_all();
    size_t used();
    size_t peak();

private:
    const Allocation* find(uintptr_t address);
    std::string slack(const Allocation& block);
    void retire(const Allocation& block);
    std::mutex mutex;
    std::map<uintptr_t, Allocation> blocks;  // by first byte
    std::deque<Allocation> retired;          // freed, still reserved
    uint64_t count = 0;
    size_t in_use = 0;
    size_t most = 0;
};

Memory& memory();

}  // namespace emulator
