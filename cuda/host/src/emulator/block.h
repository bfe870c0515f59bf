// A thread block on one OS thread: its threads as fibers, its warps, its barrier, its shared memory.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "failure.h"
#include "fiber.h"
#include "memory.h"
#include "schedule.h"

namespace emulator {

struct Dim3 {
    uint32_t x = 1, y = 1, z = 1;
};

constexpr uint32_t WARP = 32;

// The line of a kernel that called.
struct Where {
    const char* file = "";
    int line = 0;
    bool operator==(const Where& other) const { return line == other.line && file == other.file; }
};

// An operation that a warp performs together. Every live lane hands in its operands and waits; the last performs it for all.
struct Operation {
    const char* name;
    // All lanes must come to the same line (`.aligned` in PTX); else only to the same operation.
    bool aligned;
    // All 32 lanes must take part; else those that have exited are left out.
    bool whole;
    void (*perform)(void* const* operands, uint32_t present);
};

enum class State : uint8_t { ready, in_warp_operation, at_barrier, exited };

struct Copy {
    char* to;
    const char* from;
    uint32_t bytes;  // 16 or 8
    bool zero;       // fill with zeros instead: a row beyond the matrix
    uint32_t group;  // the group that `cp_async_commit` closed over it
};

// A product of a warpgroup that has been issued (warpgroup.h): one warp's part of it.
struct Pending {
    uint64_t a, b;
    bool a_across, b_across;
    uint32_t group;  // the group that `wgmma_commit` closed over it
    Where where;
    float* sums[WARP];
};

// Registers that products under way add to, and what will stand in them.
struct Held {
    float* sums[WARP];
    std::vector<float> values;
};

struct Thread {
    Dim3 index;  // threadIdx
    uint32_t linear = 0;
    State state = State::ready;
    Where where;              // of the operation it waits in
    const char* what = "";    // its name
    std::vector<Copy> copies; // issued, not yet visible (lazy)
    uint32_t committed = 0;   // groups closed so far
    // Copies issued, those issued when each group was closed, those waited for, and those that a `proxy_fence` followed.
    uint32_t issued = 0, complete = 0, fenced = 0;
    std::vector<uint32_t> issued_at;
    std::unique_ptr<Fiber> fiber;
};

struct Warp {
    uint32_t live = 0;     // lanes that exist and have not exited
    uint32_t existing = 0; // lanes that exist
    uint32_t arrived = 0;  // lanes waiting in `operation`
    const Operation* operation = nullptr;
    Where where;
    void* operands[WARP] = {};
    std::vector<Pending> pending;
    std::vector<Held> held;
    uint32_t product_groups = 0, products = 0;
    bool ordered = false;  // a `wgmma_fence` since the last wait
};

// What a launch asks for; the same for all its blocks.
struct Launch {
    const char* name = "";
    void (*run)(void* const* arguments) = nullptr;
    void* const* arguments = nullptr;
    Dim3 grid, block;
    uint32_t shared_bytes = 0;
    Schedule schedule;
    std::vector<Range> live;  // device memory at the time of the launch
};

// One per OS thread, used for block after block.
class Block {
public:
    Block();
    ~Block();
    // Runs all threads of block `index`; an error leaves the rest undone.
    Failure run(const Launch& launch, Dim3 index, uint64_t number);

    // What threads call; `current` is the thread whose fiber runs.
    void operate(const Operation& operation, void* operand, Where where);
    void barrier(Where where);
    void copy_async(char* to, const char* from, uint32_t bytes, bool zero);
    void commit_copies();
    void wait_copies(uint32_t groups);
    void fence_proxy();
    [[noreturn]] void fail(Error error, const std::string& message);

    char* shared_at(uint32_t address, uint32_t bytes, uint32_t alignment, const char* operation, Where where);
    // 16 bytes that a warpgroup's product reads: it does not see copies that no `proxy_fence` followed.
    const char* shared_for_products(uint32_t address, const char* what, Where where);
    // A warp's next product must be that of the other warps of its warpgroup.
    void same_product(const Pending& product);
    Warp& own_warp() { return warp_of(*current); }
    uint32_t warp_number() const { return current->linear / WARP; }
    // Where a faulting address lies, and who waits where.
    std::string describe(uintptr_t address) const;
    std::string waiting() const;
    void check_global(const void* address, uint32_t bytes, uint32_t alignment, const char* operation, Where where);

    const Launch* launch = nullptr;
    Dim3 index;  // blockIdx
    Thread* current = nullptr;
    char* shared = nullptr;

private:
    static void enter(void* self);
    void wait(State state, const char* what, Where where);
    void exit();
    void complete(Warp& warp);
    void release_barrier();
    void run_greedy(Random& random);
    void run_round_robin(Random& random);
    bool step(Thread& thread);
    Warp& warp_of(const Thread& thread) { return warps[thread.linear / WARP]; }
    std::string name_of(const Thread& thread) const;
    void prepare_shared();
    std::string check_shared() const;

    std::vector<Thread> threads;  // grows to the largest block so far
    std::vector<Warp> warps;
    // The products of each warpgroup, in order.
    std::vector<std::vector<Pending>> products;
    // Of each 16 bytes of shared memory the copy that last wrote it: its thread plus 1, and its number among that thread's copies.
    struct Writer {
        uint32_t thread, number;
    };
    std::vector<Writer> writers;
    uint32_t thread_count = 0;
    uint32_t alive = 0;
    uint32_t at_barrier = 0;
    Failure failure;
    char* shared_mapping = nullptr;
    Range last_hit;  // of `check_global`: neighbouring accesses fall into the same block
};

// The block that this OS thread runs, or null.
extern thread_local Block* running;

// Addresses of shared memory start here: a kernel that takes 0 for its first byte is wrong on hardware too.
constexpr uint32_t SHARED_BASE = 1024;

}  // namespace emulator
