// A fiber: a stack of its own and the registers that a function call keeps. One carries each CUDA thread.
//
// Switching is a plain call that changes the stack pointer (x86-64), or `swapcontext` elsewhere. AddressSanitizer is told of
// every switch, so that it knows which stack is in use.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

// Where a suspended flow of control goes on.
struct Continuation {
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t context{};
#endif
};

class Fiber {
public:
    Fiber();
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // The next `resume` begins `entry(argument)` on an empty stack; whatever ran there before is forgotten. `entry` must end with
    // `leave`, never return.
    void prepare(void (*entry)(void*), void* argument);
    // Runs the fiber until it suspends or leaves. Called from the scheduler's stack only.
    void resume();
    // Back to `resume`; returns at the next `resume`. Called from the fiber only.
    void suspend();
    // Back to `resume` for good.
    [[noreturn]] void leave();

private:
    static void begin();
    char* bottom;  // lowest usable byte; the page below it is not mapped
    Continuation own;
    Continuation scheduler;
    void (*entry)(void*) = nullptr;
    void* argument = nullptr;
    // AddressSanitizer's view of both sides.
    void* sanitizer_state = nullptr;
    void* scheduler_sanitizer_state = nullptr;
    const void* scheduler_bottom = nullptr;
    size_t scheduler_size = 0;
};

}  // namespace emulator
