#include "failure.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace emulator {
namespace {

struct Reports {
    std::mutex mutex;
    std::vector<std::string> messages;
};

// Never destroyed: reports may come while the process ends.
Reports& reports() {
    static Reports* all = new Reports;
    return *all;
}

void at_exit() {
    size_t count = reports().messages.size();
    if (count == 0) return;
    std::fprintf(stderr, "cuda emulator: %zu failure(s) that no test expected; the first: %s\n", count,
                 reports().messages.front().c_str());
    std::fflush(nullptr);
    _exit(70);
}

}  // namespace

void report(const std::string& message) {
    static const int registered = std::atexit(at_exit);
    (void)registered;
    std::lock_guard<std::mutex> lock(reports().mutex);
    std::fprintf(stderr, "cuda emulator: %s\n", message.c_str());
    reports().messages.push_back(message);
}

std::vector<std::string> take_reports() {
    std::lock_guard<std::mutex> lock(reports().mutex);
    std::vector<std::string> taken;
    taken.swap(reports().messages);
    return taken;
}

std::string format(const char* pattern, ...) {
    va_list arguments;
    va_start(arguments, pattern);
    char text[1024];
    std::vsnprintf(text, sizeof text, pattern, arguments);
    va_end(arguments);
    return text;
}

}  // namespace emulator
