#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "failure.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes) ((void)0)
#endif

namespace emulator {
namespace {

constexpr size_t ALIGNMENT = 256;  // of cuMemAlloc
constexpr size_t RETIRED = 256;    // freed blocks that stay unmapped

size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

constexpr size_t GUARD = 256 * 1024;  // that faults, on either side: addresses cost nothing

const size_t PAGE = static_cast<size_t>(sysconf(_SC_PAGESIZE));

// Of the part that may be touched.
char* first_byte(const Allocation& block) { return block.mapping + GUARD; }
char* last_byte(const Allocation& block) { return block.mapping + block.mapping_bytes - GUARD; }

}  // namespace

Memory& memory() {
    static Memory* all = new Memory;
    return *all;
}

void* Memory::allocate(size_t bytes, size_t limit, bool pinned) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!pinned && (bytes > limit || in_use > limit - bytes)) return nullptr;
    size_t data = round_up(bytes, PAGE);
    size_t whole = data + 2 * GUARD;
    void* mapped = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* base = static_cast<char*>(mapped);
    if (mprotect(base + GUARD, data, PROT_READ | PROT_WRITE) != 0) {
        munmap(base, whole);
        return nullptr;
    }
    std::memset(base + GUARD, POISON, data);
    char* start = base + GUARD + data - round_up(bytes, ALIGNMENT);
    Allocation block{++count, bytes, start, base, whole, pinned};
    ASAN_POISON_MEMORY_REGION(first_byte(block), start - first_byte(block));
    ASAN_POISON_MEMORY_REGION(start + bytes, last_byte(block) - (start + bytes));
    blocks[reinterpret_cast<uintptr_t>(start)] = block;
    if (!pinned) {
        in_use += bytes;
        most = std::max(most, in_use);
    }
    return start;
}

const Allocation* Memory::find(uintptr_t address) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) return nullptr;
    const Allocation& block = std::prev(after)->second;
    return address <= reinterpret_cast<uintptr_t>(block.start) + block.bytes ? &block : nullptr;
}

bool Memory::contains(uintptr_t address, size_t bytes, bool pinned) {
    std::lock_guard<std::mutex> lock(mutex);
    const Allocation* block = find(address);
    if (!block || block->pinned != pinned) return false;
    return bytes <= reinterpret_cast<uintptr_t>(block->start) + block->bytes - address;
}

std::string Memory::slack(const Allocation& block) {
    ASAN_UNPOISON_MEMORY_REGION(first_byte(block), last_byte(block) - first_byte(block));
    std::string text;
    auto touched = [](const char* at) { return static_cast<uint8_t>(*at) != POISON; };
    for (const char* at = block.start; at-- > first_byte(block) && text.empty();) {
        if (touched(at)) text = format("a write %td byte(s) before the start", block.start - at);
    }
    for (const char* at = block.start + block.bytes; at < last_byte(block) && text.empty(); at++) {
        if (touched(at)) text = format("a write %td byte(s) past the end", at - (block.start + block.bytes));
    }
    if (!text.empty()) {
        text += format(" of allocation %llu (%zu bytes)", static_cast<unsigned long long>(block.number), block.bytes);
        // Said once.
        std::memset(first_byte(block), POISON, block.start - first_byte(block));
        std::memset(block.start + block.bytes, POISON, last_byte(block) - (block.start + block.bytes));
    }
    ASAN_POISON_MEMORY_REGION(first_byte(block), block.start - first_byte(block));
    ASAN_POISON_MEMORY_REGION(block.start + block.bytes, last_byte(block) - (block.start + block.bytes));
    return text;
}

std::string Memory::check_slack(const std::vector<uintptr_t>& addresses) {
    std::lock_guard<std::mutex> lock(mutex);
    for (uintptr_t address : addresses) {
        const Allocation* block = find(address);
        std::string text = block ? slack(*block) : "";
        if (!text.empty()) return text;
    }
    return "";
}

void Memory::retire(const Allocation& block) {
    ASAN_UNPOISON_MEMORY_REGION(first_byte(block), last_byte(block) - first_byte(block));
    // A fresh mapping in its place gives the memory back and keeps the addresses.
    mmap(block.mapping, block.mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    retired.push_back(block);
    if (retired.size() > RETIRED) {
        munmap(retired.front().mapping, retired.front().mapping_bytes);
        retired.pop_front();
    }
    if (!block.pinned) in_use -= block.bytes;
}

std::string Memory::release(uintptr_t address, bool pinned) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find(address);
    if (found == blocks.end() || found->second.pinned != pinned) {
        for (const Allocation& block : retired) {
            if (reinterpret_cast<uintptr_t>(block.start) == address) {
                return format("allocation %llu (%zu bytes) is freed twice", static_cast<unsigned long long>(block.number),
                              block.bytes);
            }
        }
        return format("0x%zx is freed, which is no allocation%s", address, pinned ? " of pinned memory" : "");
    }
    std::string text = slack(found->second);
    retire(found->second);
    blocks.erase(found);
    return text;
}

std::string Memory::describe(uintptr_t address) {
    std::lock_guard<std::mutex> lock(mutex);
    auto inside = [&](const Allocation& block) {
        uintptr_t mapping = reinterpret_cast<uintptr_t>(block.mapping);
        return address >= mapping && address < mapping + block.mapping_bytes;
    };
    auto place = [&](const Allocation& block, const char* freed) {
        uintptr_t start = reinterpret_cast<uintptr_t>(block.start);
        unsigned long long number = block.number;
        if (address < start) {
            return format("%zu byte(s) before allocation %llu (%zu bytes)%s", start - address, number, block.bytes, freed);
        }
        if (address >= start + block.bytes) {
            return format("%zu byte(s) past the end of allocation %llu (%zu bytes)%s", address - start - block.bytes, number,
                          block.bytes, freed);
        }
        return format("byte %zu of allocation %llu (%zu bytes)%s", address - start, number, block.bytes, freed);
    };
    for (const auto& entry : blocks) {
        if (inside(entry.second)) return place(entry.second, "");
    }
    for (const Allocation& block : retired) {
        if (inside(block)) return place(block, ", which was freed");
    }
    return "in no allocation";
}

std::vector<Range> Memory::live() {
    std::lock_guard<std::mutex> lock(mutex);
    std::vector<Range> ranges;
    ranges.reserve(blocks.size());
    for (const auto& entry : blocks) ranges.push_back({entry.first, entry.first + entry.second.bytes});
    return ranges;
}

std::string Memory::release_all() {
    std::lock_guard<std::mutex> lock(mutex);
    if (blocks.empty()) return "";
    size_t bytes = 0;
    const Allocation* first = nullptr;
    for (const auto& entry : blocks) {
        bytes += entry.second.bytes;
        if (!first || entry.second.number < first->number) first = &entry.second;
    }
    std::string text = format("%zu allocation(s), %zu bytes, still live; the first: allocation %llu, %zu bytes%s", blocks.size(),
                              bytes, static_cast<unsigned long long>(first->number), first->bytes,
                              first->pinned ? " of pinned host memory" : "");
    for (const auto& entry : blocks) retire(entry.second);
    blocks.clear();
    return text;
}

size_t Memory::used() {
    std::lock_guard<std::mutex> lock(mutex);
    return in_use;
}

size_t Memory::peak() {
    std::lock_guard<std::mutex> lock(mutex);
    return most;
}

}  // namespace emulator
