// Modules, kernels, and launching them.
#include <elf.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "driver/state.h"
#include "emulator/memory.h"

using namespace driver;

namespace {

using emulator::format;

// Reads memory that may not be there: the parameter array of a launch with too few arguments leads anywhere.
bool peek(void* to, const void* from, size_t bytes) {
    iovec local{to, bytes}, remote{const_cast<void*>(from), bytes};
    ssize_t got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    if (got < 0 && errno != EFAULT) {
        // Forbidden here (a container's filter): trust the caller, as the driver does.
        std::memcpy(to, from, bytes);
        return true;
    }
    return got == static_cast<ssize_t>(bytes);
}

// A launch as it stands in a queue or a graph: arguments copied, everything else by value.
struct Pending {
    const emulator::Kernel* kernel;
    emulator::Dim3 grid, block;
    uint32_t shared_bytes;
    emulator::Schedule schedule;
    std::vector<std::max_align_t> storage;  // the parameter buffer
    Result run() const;
    const char* argument(size_t i) const {
        return reinterpret_cast<const char*>(storage.data()) + kernel->parameters[i].offset;
    }
};

Result Pending::run() const {
    if (current->broken) return SUCCESS;
    std::vector<void*> arguments;
    std::vector<uintptr_t> pointers;
    for (size_t i = 0; i < kernel->parameters.size(); i++) {
        arguments.push_back(const_cast<char*>(argument(i)));
        if (!kernel->parameters[i].pointer) continue;
        uintptr_t pointer;
        std::memcpy(&pointer, argument(i), sizeof pointer);
        if (pointer == 0) continue;
        if (!emulator::memory().contains(pointer, 0) && !emulator::memory().contains(pointer, 0, true)) {
            std::string where = emulator::memory().describe(pointer);
            current->broken = refuse(ILLEGAL_ADDRESS, format("kernel %s: argument %zu is a pointer outside every live allocation: %s",
                                                             kernel->name.c_str(), i, where.c_str()));
            return SUCCESS;
        }
        pointers.push_back(pointer);
    }
    emulator::Launch launch;
    launch.name = kernel->name.c_str();
    launch.run = kernel->run;
    launch.arguments = arguments.data();
    launch.grid = grid;
    launch.block = block;
    launch.shared_bytes = shared_bytes;
    launch.schedule = schedule;
    launch.live = emulator::memory().live();
    emulator::Failure failure = emulator::run_grid(launch);
    if (failure.error == emulator::Error::none) {
        std::string stray = emulator::memory().check_slack(pointers);
        if (!stray.empty()) failure = {emulator::Error::illegal_address, "kernel " + kernel->name + ": " + stray};
    }
    if (failure.error != emulator::Error::none) {
        current->broken = refuse(static_cast<Result>(failure.error), failure.message);
    }
    // As on a device, the launch itself has succeeded; the next call hears of the failure.
    return SUCCESS;
}

Result check_geometry(const Function& function, emulator::Dim3 grid, emulator::Dim3 block, uint32_t shared_bytes) {
    const char* name = function.kernel->name.c_str();
    auto empty = [](emulator::Dim3 d) { return d.x == 0 || d.y == 0 || d.z == 0; };
    if (empty(grid) || empty(block)) {
        return refuse(INVALID_VALUE, format("kernel %s: a dimension of grid (%u, %u, %u) or block (%u, %u, %u) is zero", name, grid.x,
                                            grid.y, grid.z, block.x, block.y, block.z));
    }
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        return refuse(INVALID_VALUE, format("kernel %s: grid (%u, %u, %u) is over (2^31 - 1, 65535, 65535)", name, grid.x, grid.y,
                                            grid.z));
    }
    if (block.x > 1024 || block.y > 1024 || block.z > 64 || block.x * block.y * block.z > 1024) {
        return refuse(INVALID_VALUE, format("kernel %s: block (%u, %u, %u) has over 1024 threads, or over 64 in z", name, block.x,
                                            block.y, block.z));
    }
    if (shared_bytes > static_cast<uint32_t>(function.dynamic_shared_limit)) {
        return refuse(INVALID_VALUE, format("kernel %s: %u bytes of shared memory are over its limit of %d; cuFuncSetAttribute raises "
                                            "it, up to %d on this device",
                                            name, shared_bytes, function.dynamic_shared_limit, device().shared_per_block()));
    }
    return SUCCESS;
}

// The values that `parameters` points to, one by one.
Result gather(Pending& pending, void** parameters) {
    const emulator::Kernel& kernel = *pending.kernel;
    for (size_t i = 0; i < kernel.parameters.size(); i++) {
        const emulator::Parameter& parameter = kernel.parameters[i];
        void* value = nullptr;
        char* to = const_cast<char*>(pending.argument(i));
        bool given = peek(&value, parameters + i, sizeof value) && value && peek(to, value, parameter.bytes);
        if (!given) {
            return refuse(INVALID_VALUE, format("kernel %s takes %zu arguments; argument %zu is missing", kernel.name.c_str(),
                                                kernel.parameters.size(), i));
        }
        if (reinterpret_cast<uintptr_t>(value) % parameter.alignment != 0) {
            return refuse(INVALID_VALUE, format("kernel %s: argument %zu of %zu bytes is not aligned: is it of the kernel's type?",
                                                kernel.name.c_str(), i, parameter.bytes));
        }
    }
    return SUCCESS;
}

// The values in one buffer: CU_LAUNCH_PARAM_BUFFER_POINTER (1), its size (2), the end (0).
Result gather_buffer(Pending& pending, void** extra) {
    const void* buffer = nullptr;
    size_t bytes = 0;
    for (; *extra; extra += 2) {
        if (reinterpret_cast<uintptr_t>(*extra) == 1) buffer = extra[1];
        if (reinterpret_cast<uintptr_t>(*extra) == 2) bytes = *static_cast<size_t*>(extra[1]);
    }
    if (!buffer || bytes != pending.kernel->parameter_bytes) {
        return refuse(INVALID_VALUE, format("kernel %s takes %zu bytes of arguments, not %zu", pending.kernel->name.c_str(),
                                            pending.kernel->parameter_bytes, bytes));
    }
    std::memcpy(pending.storage.data(), buffer, bytes);
    return SUCCESS;
}

// Notes the functions of machine code; says what is wrong with it. Other images (PTX, or anything in tests) are taken as they are.
std::string look_into(const void* image, Module& module) {
    auto* bytes = static_cast<const char*>(image);
    if (std::strncmp(bytes, ELFMAG, SELFMAG) != 0) return "";
    module.machine_code = true;
    Elf64_Ehdr header;
    std::memcpy(&header, bytes, sizeof header);
    constexpr int CUDA = 190;  // EM_CUDA
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != CUDA) return "an ELF file that is not for a CUDA device";
    auto section = [&](size_t i) {
        Elf64_Shdr found;
        std::memcpy(&found, bytes + header.e_shoff + i * header.e_shentsize, sizeof found);
        return found;
    };
    for (size_t i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr symbols = section(i);
        if (symbols.sh_type != SHT_SYMTAB) continue;
        const char* names = bytes + section(symbols.sh_link).sh_offset;
        for (size_t at = 0; at + sizeof(Elf64_Sym) <= symbols.sh_size; at += sizeof(Elf64_Sym)) {
            Elf64_Sym symbol;
            std::memcpy(&symbol, bytes + symbols.sh_offset + at, sizeof symbol);
            if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC) module.named.insert(names + symbol.st_name);
        }
    }
    return module.named.empty() ? "machine code without a function" : "";
}

}  // namespace

Result driver::kernel_work(void* handle, const emulator::Dim3& grid, const emulator::Dim3& block, uint32_t shared_bytes,
                           void** parameters, void** extra, Work& work) {
    if (!handle) return INVALID_HANDLE;
    const auto& function = *static_cast<Function*>(handle);
    Pending pending{function.kernel, grid, block, shared_bytes, settings().schedule, {}};
    Result bad = check_geometry(function, pending.grid, pending.block, shared_bytes);
    if (bad) return bad;
    pending.storage.resize(function.kernel->parameter_bytes / sizeof(std::max_align_t) + 1);
    if (!function.kernel->parameters.empty()) {
        if (!parameters == !extra) return refuse(INVALID_VALUE, "a kernel's arguments must be given in one of two ways");
        bad = parameters ? gather(pending, parameters) : gather_buffer(pending, extra);
    }
    if (bad == SUCCESS) work = [pending] { return pending.run(); };
    return bad;
}

API Result cuModuleLoadData(void** module, const void* image) {
    Call call;
    if (call.error) return call.error;
    if (!image) return INVALID_VALUE;
    // The image is for a device; its kernels are here already, compiled for the host. But machine code must be a device's, and have them.
    auto loaded_image = std::make_unique<Module>();
    std::string wrong = look_into(image, *loaded_image);
    if (!wrong.empty()) return refuse(INVALID_IMAGE, "cuModuleLoadData: " + wrong);
    Module* loaded = loaded_image.release();
    current->modules.insert(loaded);
    *module = loaded;
    return SUCCESS;
}

API Result cuModuleLoad(void** module, const char* path) {
    if (access(path, R_OK) != 0) return FILE_NOT_FOUND;
    return cuModuleLoadData(module, path);
}

API Result cuModuleUnload(void* handle) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    auto* module = static_cast<Module*>(handle);
    if (current->modules.erase(module) == 0) return refuse(INVALID_HANDLE, "cuModuleUnload: not a module");
    delete module;
    return SUCCESS;
}

API Result cuModuleGetFunction(void** function, void* handle, const char* name) {
    Call call;
    if (call.error) return call.error;
    auto* module = static_cast<Module*>(handle);
    if (!current->modules.count(module)) return INVALID_HANDLE;
    const emulator::Kernel* kernel = emulator::find_kernel(name);
    if (!kernel || (module->machine_code && !module->named.count(name))) return NOT_FOUND;
    module->functions.push_back(std::make_unique<Function>(Function{kernel}));
    *function = module->functions.back().get();
    return SUCCESS;
}

API Result cuModuleGetGlobal_v2(DevicePointer*, size_t*, void*, const char*) { return NOT_FOUND; }

// Offset and size of a parameter; INVALID_VALUE past the last. With this a launcher can check its arguments on every driver.
API Result cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* bytes) {
    const auto& parameters = static_cast<Function*>(handle)->kernel->parameters;
    if (index >= parameters.size()) return INVALID_VALUE;
    *offset = parameters[index].offset;
    if (bytes) *bytes = parameters[index].bytes;
    return SUCCESS;
}

API Result cuFuncSetAttribute(void* handle, int attribute, int value) {
    Call call;
    if (call.error) return call.error;
    auto* function = static_cast<Function*>(handle);
    if (attribute != 8) return SUCCESS;  // MAX_DYNAMIC_SHARED_SIZE_BYTES; the others are hints
    if (value < 0 || value > device().shared_per_block()) {
        return refuse(INVALID_VALUE, format("kernel %s: %d bytes of shared memory; this device has %d for a block",
                                            function->kernel->name.c_str(), value, device().shared_per_block()));
    }
    function->dynamic_shared_limit = value;
    return SUCCESS;
}

API Result cuFuncGetAttribute(int* value, int attribute, void* handle) {
    Call call;
    if (call.error) return call.error;
    Device d = device();
    switch (attribute) {
        case 0: *value = 1024; break;                                                        // MAX_THREADS_PER_BLOCK
        case 5: case 6: *value = 10 * d.major + d.minor; break;                              // PTX_VERSION, BINARY_VERSION
        case 8: *value = static_cast<Function*>(handle)->dynamic_shared_limit; break;
        default: *value = 0;  // registers and local memory are the compiler's, which was not here
    }
    return SUCCESS;
}

API Result cuFuncSetCacheConfig(void*, int) { return SUCCESS; }

// By threads and shared memory alone: registers are not known here.
API Result cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void*, int threads, size_t shared_bytes, unsigned) {
    if (threads <= 0 || threads > 1024) return INVALID_VALUE;
    size_t fit = static_cast<size_t>(2048 / threads);
    size_t shared = static_cast<size_t>(device().shared_per_block()) + 1024;
    *blocks = static_cast<int>(std::min({fit, shared / (shared_bytes + 1024), size_t{32}}));
    return SUCCESS;
}

API Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t shared_bytes) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared_bytes, 0);
}

API Result cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                          unsigned block_z, unsigned shared_bytes, void* stream_handle, void** parameters, void** extra) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(stream_handle, "cuLaunchKernel");
    if (!stream) return INVALID_HANDLE;
    Work work;
    Result bad = kernel_work(handle, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, parameters, extra, work);
    if (bad) return bad;
    current->kernel_launches++;
    return stream->submit(std::move(work));
}
