// What went wrong, in words. Every failure is printed when it happens and kept until a test takes it; a process that ends with
// failures that nobody took does not end well (exit code 70), so that none goes unnoticed.
#pragma once
#include <cstdarg>
#include <string>
#include <vector>

namespace emulator {

// Numbers of the driver's error codes that kernels can cause.
enum class Error : int {
    none = 0,
    illegal_address = 700,
    timeout = 702,
    misaligned_address = 716,
    launch_failed = 719,
};

struct Failure {
    Error error = Error::none;
    std::string message;
};

void report(const std::string& message);
// All that was reported since the last call.
std::vector<std::string> take_reports();

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

}  // namespace emulator
