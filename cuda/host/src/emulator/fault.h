// What stops a kernel from outside becomes a failure with block, thread and place, as on a device: an access that faults, and a block that
// does not come to its end.
#pragma once

namespace emulator {

// For this OS thread; what faults outside of kernels goes where it went before. Under AddressSanitizer faults are left to it: it says
// more.
void catch_faults();

// Fails the running block once it has used so much processor time: a thread that waits in a loop for what never comes would keep its
// OS thread for ever. ROENTGEN_EMULATOR_LIMIT_S, 60 by default. Call `catch_faults` first.
class Watch {
public:
    Watch();
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
};

}  // namespace emulator
