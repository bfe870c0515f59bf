#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

// Instrumented frames are several times as large.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t STACK_BYTES = 256 * 1024;
#else
constexpr size_t STACK_BYTES = 64 * 1024;
#endif

size_t page() {
    static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

thread_local Fiber* starting = nullptr;

#if defined(__x86_64__)
// Saves the registers that a callee must preserve, exchanges the stack pointers, and returns on the other stack.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
#endif

void exchange(Continuation& save, Continuation& load) {
#if defined(__x86_64__)
    emulator_switch(&save.stack_pointer, load.stack_pointer);
#else
    swapcontext(&save.context, &load.context);
#endif
}

}  // namespace

Fiber::Fiber() {
    void* mapped =
        mmap(nullptr, STACK_BYTES + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(mapped, page(), PROT_NONE) != 0) {
        std::fprintf(stderr, "cuda emulator: no memory for the stack of a thread\n");
        std::abort();
    }
    bottom = static_cast<char*>(mapped) + page();
}

Fiber::~Fiber() { munmap(bottom - page(), STACK_BYTES + page()); }

void Fiber::prepare(void (*new_entry)(void*), void* new_argument) {
    entry = new_entry;
    argument = new_argument;
    sanitizer_state = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    // A thread that was abandoned in the middle has left its frames' red zones behind.
    ASAN_UNPOISON_MEMORY_REGION(bottom, STACK_BYTES);
#endif
#if defined(__x86_64__)
    // As `emulator_switch` leaves a stack: six registers, then the address to return to, then that function's (null) caller, where
    // the ABI wants a stack pointer that is 8 more than a multiple of 16.
    void** top = reinterpret_cast<void**>(bottom + STACK_BYTES);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(&Fiber::begin);
    for (int i = 3; i <= 8; i++) top[-i] = nullptr;
    own.stack_pointer = top - 8;
#else
    getcontext(&own.context);
    own.context.uc_stack.ss_sp = bottom;
    own.context.uc_stack.ss_size = STACK_BYTES;
    own.context.uc_link = nullptr;
    makecontext(&own.context, &Fiber::begin, 0);
#endif
}

void Fiber::begin() {
    Fiber* self = starting;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->scheduler_bottom, &self->scheduler_size);
#endif
    self->entry(self->argument);
    std::abort();
}

void Fiber::resume() {
    starting = this;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_sanitizer_state, bottom, STACK_BYTES);
#endif
    exchange(scheduler, own);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_sanitizer_state, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&sanitizer_state, scheduler_bottom, scheduler_size);
#endif
    exchange(own, scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(sanitizer_state, &scheduler_bottom, &scheduler_size);
#endif
}

void Fiber::leave() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(nullptr, scheduler_bottom, scheduler_size);
#endif
    exchange(own, scheduler);
    std::abort();
}

}  // namespace emulator
