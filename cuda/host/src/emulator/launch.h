// Kernels by name, and running one over its whole grid.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "block.h"

namespace emulator {

struct Parameter {
    size_t bytes;
    size_t alignment;
    size_t offset;  // in the parameter buffer, as the driver lays it out
    bool pointer;
};

struct Kernel {
    std::string name;
    void (*run)(void* const* arguments);  // calls the kernel with the values that `arguments` point to
    std::vector<Parameter> parameters;
    size_t parameter_bytes;
};

const Kernel* find_kernel(const std::string& name);

// Runs every block of the grid, spread over OS threads in shuffled order. The first failure ends the launch.
Failure run_grid(const Launch& launch);

void register_kernel(Kernel kernel);

// One static object per kernel: the prelude's KERNEL line. The kernel's own signature says what its arguments are.
template <auto kernel>
struct Registration;

template <class... Arguments, void (*kernel)(Arguments...)>
struct Registration<kernel> {
    explicit Registration(const char* name) {
        Kernel entry{name, &call, {}, 0};
        (add<Arguments>(entry), ...);
        register_kernel(std::move(entry));
    }

private:
    template <class T>
    static void add(Kernel& entry) {
        size_t offset = (entry.parameter_bytes + alignof(T) - 1) / alignof(T) * alignof(T);
        entry.parameters.push_back({sizeof(T), alignof(T), offset, std::is_pointer_v<T>});
        entry.parameter_bytes = offset + sizeof(T);
    }
    static void call(void* const* arguments) { call_with(arguments, std::index_sequence_for<Arguments...>{}); }
    template <size_t... i>
    static void call_with(void* const* arguments, std::index_sequence<i...>) {
        kernel(*static_cast<std::remove_reference_t<Arguments>*>(arguments[i])...);
    }
};

}  // namespace emulator
