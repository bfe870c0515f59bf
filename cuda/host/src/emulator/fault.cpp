#include "fault.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

#include "block.h"

namespace emulator {
namespace {

#if !defined(__SANITIZE_ADDRESS__)
struct sigaction before[2];

void on_fault(int signal, siginfo_t* info, void*) {
    Block* block = running;
    if (!block || !block->current) {
        // Not ours: the access is repeated under the previous handler.
        sigaction(signal, &before[signal == SIGBUS], nullptr);
        return;
    }
    // The kernel's own code faulted, so no lock is held; the handler is left for good and the fiber never goes on.
    uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    std::string place = block->describe(address);
    block->fail(Error::illegal_address, format("an access to 0x%zx, %s", address, place.c_str()));
}
#endif

long limit() {
    static const long seconds = [] {
        const char* text = std::getenv("ROENTGEN_EMULATOR_LIMIT_S");
        long wanted = text ? std::strtol(text, nullptr, 10) : 0;
        return wanted > 0 ? wanted : 60;
    }();
    return seconds;
}

// A thread that loops without synchronising is in the kernel's own code, which allocates nothing and holds no lock.
void on_limit(int, siginfo_t*, void*) {
    Block* block = running;
    if (!block || !block->current) return;
    std::string others = block->waiting();
    block->fail(Error::timeout, format("no end after %ld s: it waits for what does not come; %s", limit(), others.c_str()));
}

void install(int signal, void (*handler)(int, siginfo_t*, void*), int flags, struct sigaction* previous) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    // The handler does not return, so the signal must not stay blocked.
    action.sa_flags = SA_SIGINFO | SA_NODEFER | flags;
    sigaction(signal, &action, previous);
}

timer_t* timer_of_thread() {
    thread_local timer_t timer;
    thread_local bool made = [] {
        sigevent event = {};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGXCPU;
        event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
        return timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0;
    }();
    return made ? &timer : nullptr;
}

void set_timer(long seconds) {
    itimerspec time = {};
    time.it_value.tv_sec = seconds;
    if (timer_t* timer = timer_of_thread()) timer_settime(*timer, 0, &time, nullptr);
}

}  // namespace

Watch::Watch() { set_timer(limit()); }
Watch::~Watch() { set_timer(0); }

void catch_faults() {
    static const bool installed = [] {
        install(SIGXCPU, on_limit, 0, nullptr);
#if !defined(__SANITIZE_ADDRESS__)
        // On a stack of its own: the thread's may have overflowed.
        install(SIGSEGV, on_fault, SA_ONSTACK, &before[0]);
        install(SIGBUS, on_fault, SA_ONSTACK, &before[1]);
#endif
        return true;
    }();
    (void)installed;
    thread_local bool has_stack = false;
    if (has_stack) return;
    has_stack = true;
    stack_t stack = {};
    if (sigaltstack(nullptr, &stack) == 0 && !(stack.ss_flags & SS_DISABLE)) return;
    constexpr size_t BYTES = 64 * 1024;
    stack.ss_sp = std::malloc(BYTES);  // for the thread's life
    stack.ss_size = BYTES;
    stack.ss_flags = 0;
    if (stack.ss_sp) sigaltstack(&stack, nullptr);
}

}  // namespace emulator
