#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "fault.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes) ((void)0)
#endif

namespace emulator {

thread_local Block* running = nullptr;

namespace {

constexpr size_t SHARED_ROOM = 256 * 1024;    // more than any device has
constexpr size_t SHARED_ALIGNMENT = 1024;     // what the prelude asks of the device
constexpr size_t SHARED_SLACK = 1024;         // checked on either side

constexpr size_t GUARD = 1024 * 1024;         // that faults, on either side

std::string show(Dim3 d) { return format("(%u, %u, %u)", d.x, d.y, d.z); }

std::string show(Where where) {
    const char* name = std::strrchr(where.file, '/');
    return format("%s:%d", name ? name + 1 : where.file, where.line);
}

bool is_touched(const char* begin, const char* end) {
    return std::any_of(begin, end, [](char byte) { return static_cast<uint8_t>(byte) != POISON; });
}

}  // namespace

Block::Block() {
    void* mapped =
        mmap(nullptr, SHARED_ROOM + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(static_cast<char*>(mapped) + GUARD, SHARED_ROOM, PROT_READ | PROT_WRITE) != 0) {
        std::fprintf(stderr, "cuda emulator: no memory for a block's shared memory\n");
        std::abort();
    }
    shared_mapping = static_cast<char*>(mapped);
}

Block::~Block() { munmap(shared_mapping, SHARED_ROOM + 2 * GUARD); }

// As with device memory: filled with NaNs, ending near a page that faults, with slack that is checked.
void Block::prepare_shared() {
    char* end = shared_mapping + GUARD + SHARED_ROOM;
    ASAN_UNPOISON_MEMORY_REGION(shared_mapping + GUARD, SHARED_ROOM);
    size_t whole = (launch->shared_bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
    shared = end - whole;
    std::memset(shared - SHARED_SLACK, POISON, whole + SHARED_SLACK);
    ASAN_POISON_MEMORY_REGION(shared_mapping + GUARD, shared - (shared_mapping + GUARD));
    ASAN_POISON_MEMORY_REGION(shared + launch->shared_bytes, end - (shared + launch->shared_bytes));
}

std::string Block::check_shared() const {
    const char* end = shared_mapping + GUARD + SHARED_ROOM;
    ASAN_UNPOISON_MEMORY_REGION(shared_mapping + GUARD, SHARED_ROOM);
    if (is_touched(shared + launch->shared_bytes, end)) {
        return format("a write past the end of the block's %u bytes of shared memory", launch->shared_bytes);
    }
    if (is_touched(shared - SHARED_SLACK, shared)) return "a write before the start of the block's shared memory";
    return "";
}

std::string Block::name_of(const Thread& thread) const { return "thread " + show(thread.index); }

void Block::fail(Error error, const std::string& message) {
    failure.error = error;
    failure.message = format("kernel %s, block %s, %s: %s", launch->name, show(index).c_str(), name_of(*current).c_str(),
                             message.c_str());
    current->fiber->leave();
}

void Block::enter(void* self) {
    Block& block = *static_cast<Block*>(self);
    block.launch->run(block.launch->arguments);
    block.exit();
    block.current->fiber->leave();
}

void Block::exit() {
    current->state = State::exited;
    alive--;
    Warp& warp = warp_of(*current);
    warp.live &= ~(1u << current->linear % WARP);
    if (warp.arrived != 0 && warp.arrived == warp.live) {
        complete(warp);
    } else if (at_barrier != 0 && at_barrier == alive) {
        release_barrier();
    }
}

void Block::wait(State state, const char* what, Where where) {
    current->state = state;
    current->what = what;
    current->where = where;
    current->fiber->suspend();
}

void Block::operate(const Operation& operation, void* operand, Where where) {
    Warp& warp = warp_of(*current);
    uint32_t lane = current->linear % WARP;
    if (warp.arrived == 0) {
        warp.operation = &operation;
        warp.where = where;
    } else if (warp.operation != &operation || (operation.aligned && !(warp.where == where))) {
        fail(Error::launch_failed,
             format("%s at %s, while other lanes of its warp wait in %s at %s", operation.name, show(where).c_str(),
                    warp.operation->name, show(warp.where).c_str()));
    }
    for (const Thread* other = &threads[current->linear - lane]; other < threads.data() + thread_count; other++) {
        if (other->linear / WARP != current->linear / WARP) break;
        if (other->state == State::at_barrier) {
            fail(Error::launch_failed, format("%s at %s, while %s of its warp waits in %s at %s", operation.name,
                                              show(where).c_str(), name_of(*other).c_str(), other->what,
                                              show(other->where).c_str()));
        }
    }
    if (operation.whole && warp.live != ~0u) {
        fail(Error::launch_failed, format("%s at %s needs 32 lanes, but of its warp only the lanes %08x are there", operation.name,
                                          show(where).c_str(), warp.live));
    }
    warp.operands[lane] = operand;
    warp.arrived |= 1u << lane;
    if (warp.arrived == warp.live) {
        complete(warp);
    } else {
        wait(State::in_warp_operation, operation.name, where);
    }
}

void Block::complete(Warp& warp) {
    uint32_t present = warp.arrived;
    warp.arrived = 0;
    warp.operation->perform(warp.operands, present);
    Thread* first = &threads[static_cast<size_t>(&warp - warps.data()) * WARP];
    for (uint32_t lane = 0; lane < WARP; lane++) {
        if (present >> lane & 1) first[lane].state = State::ready;
    }
}

void Block::barrier(Where where) {
    Warp& warp = warp_of(*current);
    if (warp.arrived != 0) {
        fail(Error::launch_failed, format("block_sync at %s, while other lanes of its warp wait in %s at %s", show(where).c_str(),
                                          warp.operation->name, show(warp.where).c_str()));
    }
    at_barrier++;
    if (at_barrier < alive) return wait(State::at_barrier, "block_sync", where);
    current->where = where;
    current->state = State::at_barrier;
    release_barrier();
    // Under the greedy order the last to come runs on; else it queues like the others.
    if (launch->schedule.order == Order::round_robin) current->fiber->suspend();
}

// All live threads have come. A barrier is one instruction for every warp that comes to it (`bar.sync` is `.aligned`): lanes that
// have left before, or that came to another one, are errors which some devices forgive. Warps that have exited count as arrived.
void Block::release_barrier() {
    const Thread* first = nullptr;
    for (uint32_t t = 0; t < thread_count; t++) {
        Thread& thread = threads[t];
        const Warp& warp = warp_of(thread);
        if (thread.state == State::exited) {
            if (warp.live == 0) continue;
            std::string text = format("block_sync under divergence: %s has exited, other lanes of its warp wait",
                                      name_of(thread).c_str());
            fail(Error::launch_failed, text);
        }
        if (!first) first = &thread;
        if (!(thread.where == first->where)) {
            fail(Error::launch_failed, format("block_sync under divergence: %s waits at %s, %s at %s", name_of(*first).c_str(),
                                              show(first->where).c_str(), name_of(thread).c_str(), show(thread.where).c_str()));
        }
    }
    at_barrier = 0;
    for (uint32_t t = 0; t < thread_count; t++) {
        if (threads[t].state == State::at_barrier) threads[t].state = State::ready;
    }
}

void Block::copy_async(char* to, const char* from, uint32_t bytes, bool zero) {
    writers[static_cast<size_t>(to - shared) / 16] = {current->linear + 1, current->issued++};
    if (launch->schedule.copies == Copies::eager) {
        zero ? std::memset(to, 0, bytes) : std::memcpy(to, from, bytes);
        return;
    }
    // From now until the wait the bytes are nobody's to read.
    std::memset(to, POISON, bytes);
    current->copies.push_back({to, from, bytes, zero, current->committed});
}

void Block::commit_copies() {
    current->committed++;
    current->issued_at.push_back(current->issued);
}

void Block::fence_proxy() { current->fenced = current->complete; }

const char* Block::shared_for_products(uint32_t address, const char* what, Where where) {
    const char* at = shared_at(address, 16, 16, what, where);
    Writer writer = writers[static_cast<size_t>(at - shared) / 16];
    if (writer.thread != 0 && writer.number >= threads[writer.thread - 1].fenced) {
        fail(Error::launch_failed,
             format("wgmma at %s: %s at byte %td of shared memory was copied by %s, and no proxy_fence followed its wait", show(where).c_str(), what,
                    at - shared, name_of(threads[writer.thread - 1]).c_str()));
    }
    return at;
}

void Block::same_product(const Pending& product) {
    Warp& warp = own_warp();
    uint32_t number = warp_number();
    if ((number / 4 + 1) * 4 > warps.size()) fail(Error::launch_failed, format("wgmma at %s: fewer than four warps", show(product.where).c_str()));
    std::vector<Pending>& all = products[number / 4];
    if (warp.products == all.size()) all.push_back(product);
    const Pending& first = all[warp.products++];
    if (first.a != product.a || first.b != product.b || !(first.where == product.where)) {
        fail(Error::launch_failed, format("wgmma at %s: the warps of a warpgroup have different operands", show(product.where).c_str()));
    }
}

void Block::wait_copies(uint32_t groups) {
    if (current->committed > groups) current->complete = current->issued_at[current->committed - groups - 1];
    std::vector<Copy>& copies = current->copies;
    size_t done = 0;
    // Groups are numbered in order; those below `committed - groups` must be complete.
    while (done < copies.size() && copies[done].group + groups < current->committed) {
        const Copy& copy = copies[done++];
        copy.zero ? std::memset(copy.to, 0, copy.bytes) : std::memcpy(copy.to, copy.from, copy.bytes);
    }
    copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(done));
}

char* Block::shared_at(uint32_t address, uint32_t bytes, uint32_t alignment, const char* operation, Where where) {
    int64_t offset = static_cast<int64_t>(address) - SHARED_BASE;
    if (address % alignment != 0) {
        fail(Error::misaligned_address, format("%s at %s: byte %lld of shared memory is not %u-byte aligned", operation,
                                               show(where).c_str(), static_cast<long long>(offset), alignment));
    }
    if (offset < 0 || offset + bytes > launch->shared_bytes) {
        fail(Error::illegal_address, format("%s at %s: bytes %lld to %lld of %u bytes of shared memory", operation,
                                            show(where).c_str(), static_cast<long long>(offset),
                                            static_cast<long long>(offset + bytes), launch->shared_bytes));
    }
    return shared + offset;
}

void Block::check_global(const void* pointer, uint32_t bytes, uint32_t alignment, const char* operation, Where where) {
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    if (address % alignment != 0) {
        fail(Error::misaligned_address,
             format("%s at %s: a global address that is not %u-byte aligned, %s", operation, show(where).c_str(), alignment,
                    memory().describe(address).c_str()));
    }
    if (last_hit.holds(address, bytes)) return;
    auto after = std::upper_bound(launch->live.begin(), launch->live.end(), address,
                                  [](uintptr_t a, const Range& range) { return a < range.begin; });
    if (after == launch->live.begin() || !std::prev(after)->holds(address, bytes)) {
        fail(Error::illegal_address, format("%s at %s: %u bytes of global memory, %s", operation, show(where).c_str(), bytes,
                                            memory().describe(address).c_str()));
    }
    last_hit = *std::prev(after);
}

std::string Block::describe(uintptr_t address) const {
    uintptr_t mapping = reinterpret_cast<uintptr_t>(shared_mapping), start = reinterpret_cast<uintptr_t>(shared);
    if (address < mapping || address >= mapping + SHARED_ROOM + 2 * GUARD) return memory().describe(address);
    return format("byte %td of %u bytes of shared memory", static_cast<std::ptrdiff_t>(address - start), launch->shared_bytes);
}

// Runs a thread up to its next wait. False if it cannot run or the block is over.
bool Block::step(Thread& thread) {
    if (thread.state != State::ready || failure.error != Error::none) return false;
    current = &thread;
    thread.fiber->resume();
    return failure.error == Error::none;
}

void Block::run_greedy(Random& random) {
    std::vector<uint32_t> order(warps.size());
    std::iota(order.begin(), order.end(), 0u);
    std::vector<uint32_t> lanes(WARP);
    std::iota(lanes.begin(), lanes.end(), 0u);
    bool progress = true;
    while (alive > 0 && progress) {
        progress = false;
        random.shuffle(order);
        for (uint32_t w : order) {
            random.shuffle(lanes);
            for (bool again = true; again;) {
                again = false;
                for (uint32_t lane : lanes) {
                    uint32_t t = w * WARP + lane;
                    if (t < thread_count && step(threads[t])) again = progress = true;
                }
            }
        }
    }
}

void Block::run_round_robin(Random& random) {
    std::vector<uint32_t> order(thread_count);
    std::iota(order.begin(), order.end(), 0u);
    random.shuffle(order);
    bool progress = true;
    while (alive > 0 && progress) {
        progress = false;
        for (uint32_t t : order) {
            if (step(threads[t])) progress = true;
        }
    }
}

// Who waits where, one clause per place.
std::string Block::waiting() const {
    std::string text;
    std::vector<const Thread*> first;
    std::vector<uint32_t> counts;
    for (uint32_t t = 0; t < thread_count; t++) {
        const Thread& thread = threads[t];
        if (thread.state == State::exited || thread.state == State::ready) continue;
        size_t place = 0;
        while (place < first.size() && !(first[place]->where == thread.where && first[place]->what == thread.what)) place++;
        if (place == first.size()) {
            first.push_back(&thread);
            counts.push_back(0);
        }
        counts[place]++;
    }
    for (size_t place = 0; place < first.size(); place++) {
        text += format("%s%u thread(s) wait in %s at %s, among them %s", place == 0 ? "" : "; ", counts[place],
                       first[place]->what, show(first[place]->where).c_str(), name_of(*first[place]).c_str());
    }
    return text;
}

Failure Block::run(const Launch& what, Dim3 where, uint64_t number) {
    launch = &what;
    index = where;
    failure = {};
    last_hit = {};
    thread_count = what.block.x * what.block.y * what.block.z;
    alive = thread_count;
    at_barrier = 0;
    prepare_shared();
    if (threads.size() < thread_count) threads.resize(thread_count);
    warps.assign((thread_count + WARP - 1) / WARP, Warp{});
    products.assign((warps.size() + 3) / 4, {});
    writers.assign((what.shared_bytes + 15) / 16, Writer{0, 0});
    for (uint32_t t = 0; t < thread_count; t++) {
        Thread& thread = threads[t];
        if (!thread.fiber) thread.fiber = std::make_unique<Fiber>();
        thread.linear = t;
        thread.index = {t % what.block.x, t / what.block.x % what.block.y, t / (what.block.x * what.block.y)};
        thread.state = State::ready;
        thread.copies.clear();
        thread.committed = 0;
        thread.issued = thread.complete = thread.fenced = 0;
        thread.issued_at.clear();
        thread.fiber->prepare(&Block::enter, this);
        warps[t / WARP].live |= 1u << t % WARP;
    }
    for (Warp& warp : warps) warp.existing = warp.live;

    running = this;
    Watch watch;
    Random random{what.schedule.seed * 0x2545f4914f6cdd1du + number};
    what.schedule.order == Order::greedy ? run_greedy(random) : run_round_robin(random);
    running = nullptr;

    if (failure.error == Error::none && alive > 0) {
        failure = {Error::timeout, format("kernel %s, block %s: deadlock: %s", what.name, show(index).c_str(),
                                          waiting().c_str())};
    }
    std::string stray = check_shared();
    if (failure.error == Error::none && !stray.empty()) {
        failure = {Error::illegal_address,
                   format("kernel %s, block %s: %s", what.name, show(index).c_str(), stray.c_str())};
    }
    return failure;
}

}  // namespace emulator
