// Initialisation, the device and its attributes, errors, and the controls that tests use.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver/state.h"

namespace driver {

thread_local Context* current = nullptr;

Context& primary() {
    static auto* context = new Context;
    return *context;
}

bool& initialised() {
    static bool done = false;
    return done;
}

std::recursive_mutex& lock() {
    static auto* mutex = new std::recursive_mutex;
    return *mutex;
}

Device device() {
    auto number = [](const char* name, unsigned long fallback) {
        const char* text = std::getenv(name);
        return text && *text ? std::strtoul(text, nullptr, 10) : fallback;
    };
    Device d{9, 0, static_cast<int>(number("ROENTGEN_EMULATOR_MULTIPROCESSORS", 132)),
             number("ROENTGEN_EMULATOR_MEMORY_MIB", 4096) << 20, number("ROENTGEN_EMULATOR_POOLS", 1) != 0};
    const char* capability = std::getenv("ROENTGEN_EMULATOR_CAPABILITY");
    if (capability && std::sscanf(capability, "%d.%d", &d.major, &d.minor) != 2) {
        emulator::report(emulator::format("ROENTGEN_EMULATOR_CAPABILITY is `%s`, expected a version such as 8.0", capability));
    }
    return d;
}

// CUDA C++ programming guide, technical specifications per compute capability.
int Device::shared_per_block() const {
    if (major == 8) return (minor == 6 || minor == 9 ? 99 : 163) * 1024;
    return (major == 12 ? 99 : 227) * 1024;
}

Settings& settings() {
    thread_local Settings own = [] {
        Settings from_environment;
        auto value = [](const char* name) {
            const char* text = std::getenv(name);
            return std::string(text ? text : "");
        };
        std::string schedule = value("ROENTGEN_EMULATOR_SCHEDULE");
        if (schedule.find("greedy") != std::string::npos) from_environment.schedule.order = emulator::Order::greedy;
        if (schedule.find("eager") != std::string::npos) from_environment.schedule.copies = emulator::Copies::eager;
        std::string seed = value("ROENTGEN_EMULATOR_SEED");
        if (!seed.empty()) from_environment.schedule.seed = std::strtoull(seed.c_str(), nullptr, 10);
        from_environment.lazy_streams = value("ROENTGEN_EMULATOR_STREAMS") == "lazy";
        from_environment.late_frees = value("ROENTGEN_EMULATOR_FREES") == "late";
        return from_environment;
    }();
    return own;
}

Result refuse(Result code, const std::string& why) {
    emulator::report(why);
    return code;
}

Call::Call(Kind kind) : guard(lock()) {
    if (!initialised()) {
        error = NOT_INITIALIZED;
    } else if (!current || current->retained == 0) {
        error = INVALID_CONTEXT;
    } else if (kind == normal) {
        error = current->broken;
    }
}

namespace {

struct Name {
    Result code;
    const char* name;
    const char* text;
};

constexpr Name NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {GRAPH_EXEC_UPDATE_FAILURE, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the graph update was not performed"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
};

const Name* name_of(Result code) {
    for (const Name& name : NAMES) {
        if (name.code == code) return &name;
    }
    return nullptr;
}

}  // namespace
}  // namespace driver

using namespace driver;

API Result cuInit(unsigned flags) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (flags != 0) return INVALID_VALUE;
    initialised() = true;
    return SUCCESS;
}

API Result cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}

API Result cuDeviceGetCount(int* count) {
    if (!initialised()) return NOT_INITIALIZED;
    *count = 1;
    return SUCCESS;
}

API Result cuDeviceGet(int* handle, int ordinal) {
    if (!initialised()) return NOT_INITIALIZED;
    if (ordinal != 0) return INVALID_DEVICE;
    *handle = 0;
    return SUCCESS;
}

API Result cuDeviceGetName(char* name, int length, int handle) {
    if (handle != 0) return INVALID_DEVICE;
    Device d = device();
    std::snprintf(name, static_cast<size_t>(length), "CPU emulation of compute capability %d.%d", d.major, d.minor);
    return SUCCESS;
}

API Result cuDeviceGetUuid_v2(unsigned char* uuid, int handle) {
    if (handle != 0) return INVALID_DEVICE;
    std::memcpy(uuid, "cuda emulation\0", 16);
    return SUCCESS;
}

API Result cuDeviceTotalMem_v2(size_t* bytes, int handle) {
    if (handle != 0) return INVALID_DEVICE;
    *bytes = device().memory;
    return SUCCESS;
}

API Result cuDeviceGetAttribute(int* value, int attribute, int handle) {
    if (handle != 0) return INVALID_DEVICE;
    Device d = device();
    // Numbers of `CUdevice_attribute`; what is not here does not exist on this device.
    switch (attribute) {
        case 1: *value = 1024; break;                                        // MAX_THREADS_PER_BLOCK
        case 2: case 3: *value = 1024; break;                                // MAX_BLOCK_DIM_X, Y
        case 4: *value = 64; break;                                          // MAX_BLOCK_DIM_Z
        case 5: *value = 0x7fffffff; break;                                  // MAX_GRID_DIM_X
        case 6: case 7: *value = 65535; break;                               // MAX_GRID_DIM_Y, Z
        case 8: *value = 48 * 1024; break;                                   // MAX_SHARED_MEMORY_PER_BLOCK
        case 10: *value = 32; break;                                         // WARP_SIZE
        case 12: case 82: *value = 65536; break;                             // MAX_REGISTERS_PER_BLOCK, _MULTIPROCESSOR
        case 13: *value = 1755000; break;                                    // CLOCK_RATE, kHz
        case 16: *value = d.multiprocessors; break;                          // MULTIPROCESSOR_COUNT
        case 31: *value = 1; break;                                          // CONCURRENT_KERNELS
        case 36: *value = 2619000; break;                                    // MEMORY_CLOCK_RATE, kHz
        case 37: *value = 5120; break;                                       // GLOBAL_MEMORY_BUS_WIDTH
        case 38: *value = (d.major >= 9 ? 50 : 40) << 20; break;             // L2_CACHE_SIZE
        case 39: *value = 2048; break;                                       // MAX_THREADS_PER_MULTIPROCESSOR
        case 40: *value = 2; break;                                          // ASYNC_ENGINE_COUNT
        case 41: *value = 1; break;                                          // UNIFIED_ADDRESSING
        case 75: *value = d.major; break;                                    // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = d.minor; break;                                    // COMPUTE_CAPABILITY_MINOR
        case 78: *value = 1; break;                                          // STREAM_PRIORITIES_SUPPORTED
        case 81: *value = d.shared_per_block() + 1024; break;                // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 97: *value = d.shared_per_block(); break;                       // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 106: *value = 32; break;                                        // MAX_BLOCKS_PER_MULTIPROCESSOR
        case 111: *value = 1024; break;                                      // RESERVED_SHARED_MEMORY_PER_BLOCK
        case 115: *value = d.pools; break;                                   // MEMORY_POOLS_SUPPORTED
        default: *value = 0;
    }
    return SUCCESS;
}

// NVRTC opens the driver where it finds one, asks for a table of what is not public, and calls this without looking whether it is there.
API Result cuGetExportTable(const void** table, const void*) {
    *table = nullptr;
    return NOT_FOUND;
}

API Result cuGetErrorName(Result code, const char** text) {
    const Name* name = name_of(code);
    *text = name ? name->name : nullptr;
    return name ? SUCCESS : INVALID_VALUE;
}

API Result cuGetErrorString(Result code, const char** text) {
    const Name* name = name_of(code);
    *text = name ? name->text : nullptr;
    return name ? SUCCESS : INVALID_VALUE;
}

// Controls. They are not part of the driver's interface; `src/lib.rs` looks them up.

API void emulator_set_schedule(int greedy, int eager, uint64_t seed) {
    settings().schedule = {greedy ? emulator::Order::greedy : emulator::Order::round_robin,
                           eager ? emulator::Copies::eager : emulator::Copies::lazy, seed};
}

API void emulator_set_lazy_streams(int lazy) { settings().lazy_streams = lazy != 0; }

// The next so many changes of nodes of executable graphs are refused, as a driver may that cannot make one.
API void emulator_refuse_graph_changes(uint64_t count) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    primary().refused_changes = count;
}

// Calls so far that launched a kernel, and that launched a graph.
API void emulator_launches(uint64_t counts[2]) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    counts[0] = primary().kernel_launches;
    counts[1] = primary().graph_launches;
}

// Hands over the failures so far, one to a line, and mends the context. Returns the length of the text, without its final zero; a text
// that does not fit is cut.
API size_t emulator_take_failures(char* text, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    std::string all;
    for (const std::string& message : emulator::take_reports()) all += message + "\n";
    primary().broken = SUCCESS;
    if (bytes > 0) {
        size_t length = all.size() < bytes ? all.size() : bytes - 1;
        std::memcpy(text, all.data(), length);
        text[length] = 0;
    }
    return all.size();
}
