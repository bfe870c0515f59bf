// Allocation, copies and fills. Every range is checked against the live allocations.
#include "emulator/memory.h"

#include <algorithm>
#include <cstring>

#include "driver/state.h"

using namespace driver;

namespace {

char* host(DevicePointer pointer) { return reinterpret_cast<char*>(static_cast<uintptr_t>(pointer)); }

// Nothing of nothing may be null.
void move_bytes(void* to, const void* from, size_t bytes) {
    if (bytes > 0) std::memmove(to, from, bytes);
}

Result check_range(DevicePointer pointer, size_t bytes, const char* call) {
    if (bytes == 0 || emulator::memory().contains(pointer, bytes)) return SUCCESS;
    std::string where = emulator::memory().describe(pointer);
    return refuse(INVALID_VALUE, emulator::format("%s: %zu bytes from %s are not all in one live allocation", call, bytes,
                                                  where.c_str()));
}

// Host memory that a copy may still read after the call has returned.
bool is_pinned(const void* pointer, size_t bytes) {
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    if (emulator::memory().contains(address, bytes, true)) return true;
    for (const auto& range : current->registered) {
        if (address >= range.first && address + bytes <= range.first + range.second) return true;
    }
    return false;
}

Result allocate(DevicePointer* pointer, size_t bytes) {
    void* block = emulator::memory().allocate(bytes, device().memory, false);
    if (!block) return OUT_OF_MEMORY;
    *pointer = reinterpret_cast<uintptr_t>(block);
    return SUCCESS;
}

Result release(uintptr_t pointer, bool pinned, const char* call) {
    if (pointer == 0) return SUCCESS;
    std::string text = emulator::memory().release(pointer, pinned);
    return text.empty() ? SUCCESS : refuse(INVALID_VALUE, std::string(call) + ": " + text);
}

Result copy(const char* call, void* stream_handle, Work check, std::function<void()> move, bool synchronous) {
    Stream* stream = stream_of(stream_handle, call);
    if (!stream) return INVALID_HANDLE;
    if (synchronous && stream->capture) {
        return forbid(*stream, std::string(call) + " with pageable memory while the stream is capturing");
    }
    Result result = stream->submit([=] {
        Result bad = check();
        if (bad == SUCCESS) move();
        return bad;
    });
    if (synchronous) stream->drain();
    return result != SUCCESS ? result : current->broken;
}

}  // namespace

Work driver::fill_work(DevicePointer to, unsigned char value, size_t bytes, const char* call) {
    return [=] {
        Result bad = check_range(to, bytes, call);
        if (bad == SUCCESS && bytes > 0) std::memset(host(to), value, bytes);
        return bad;
    };
}

API Result cuMemAlloc_v2(DevicePointer* pointer, size_t bytes) {
    Call call;
    if (call.error) return call.error;
    if (bytes == 0) return INVALID_VALUE;
    return allocate(pointer, bytes);
}

API Result cuMemFree_v2(DevicePointer pointer) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    current->drain();
    return release(pointer, false, "cuMemFree");
}

// The address is known at once; work in other streams may use it after this stream's earlier work, which the emulator cannot tell from
// before. An empty block has no address.
API Result cuMemAllocAsync(DevicePointer* pointer, size_t bytes, void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuMemAllocAsync");
    if (!stream) return INVALID_HANDLE;
    if (!device().pools) return NOT_SUPPORTED;
    if (stream->capture) return refuse(NOT_SUPPORTED, "cuMemAllocAsync: allocation in a graph is not emulated");
    *pointer = 0;
    if (bytes == 0) return SUCCESS;
    Result result = allocate(pointer, bytes);
    if (result != OUT_OF_MEMORY || settings().late_frees) return result;
    // Blocks whose release is still queued count as free: a driver may find room in them, or not.
    current->drain();
    return allocate(pointer, bytes);
}

API Result cuMemFreeAsync(DevicePointer pointer, void* handle) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuMemFreeAsync");
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return refuse(NOT_SUPPORTED, "cuMemFreeAsync: release in a graph is not emulated");
    return stream->submit([=] { return release(pointer, false, "cuMemFreeAsync"); });
}

API Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    Call call;
    if (call.error) return call.error;
    *total = device().memory;
    *free = *total - std::min(*total, emulator::memory().used());
    return SUCCESS;
}

API Result cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    Call call;
    if (call.error) return call.error;
    if (bytes == 0) return INVALID_VALUE;
    *pointer = emulator::memory().allocate(bytes, 0, true);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

API Result cuMemFreeHost(void* pointer) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    // Work may still read it.
    current->drain();
    return release(reinterpret_cast<uintptr_t>(pointer), true, "cuMemFreeHost");
}

API Result cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned) {
    Call call;
    if (call.error) return call.error;
    current->registered.insert({reinterpret_cast<uintptr_t>(pointer), bytes});
    return SUCCESS;
}

API Result cuMemHostUnregister(void* pointer) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    current->drain();
    for (const auto& range : current->registered) {
        if (range.first != reinterpret_cast<uintptr_t>(pointer)) continue;
        current->registered.erase(range);
        return SUCCESS;
    }
    return refuse(INVALID_VALUE, "cuMemHostUnregister: memory that is not registered");
}

// Pageable memory has been read when the call returns; pinned memory is read when the stream comes to it, and so is all memory when a
// graph is replayed.
API Result cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t bytes, void* handle) {
    Call call;
    if (call.error) return call.error;
    Work check = [=] { return check_range(to, bytes, "cuMemcpyHtoDAsync"); };
    Stream* stream = stream_of(handle, "cuMemcpyHtoDAsync");
    if (!stream) return INVALID_HANDLE;
    if (stream->capture || is_pinned(from, bytes)) {
        return copy("cuMemcpyHtoDAsync", handle, check, [=] { move_bytes(host(to), from, bytes); }, false);
    }
    const char* begin = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(begin, begin + bytes);
    return copy("cuMemcpyHtoDAsync", handle, check, [=] { move_bytes(host(to), staged->data(), bytes); }, false);
}

API Result cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t bytes, void* handle) {
    Call call;
    if (call.error) return call.error;
    return copy(
        "cuMemcpyDtoHAsync", handle, [=] { return check_range(from, bytes, "cuMemcpyDtoHAsync"); },
        [=] { move_bytes(to, host(from), bytes); }, !is_pinned(to, bytes));
}

API Result cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t bytes, void* handle) {
    Call call;
    if (call.error) return call.error;
    return copy(
        "cuMemcpyDtoDAsync", handle,
        [=] {
            Result bad = check_range(from, bytes, "cuMemcpyDtoDAsync (source)");
            return bad ? bad : check_range(to, bytes, "cuMemcpyDtoDAsync (target)");
        },
        [=] { move_bytes(host(to), host(from), bytes); }, false);
}

API Result cuMemsetD8Async(DevicePointer to, unsigned char value, size_t bytes, void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuMemsetD8Async");
    if (!stream) return INVALID_HANDLE;
    Result result = stream->submit(fill_work(to, value, bytes, "cuMemsetD8Async"));
    return result != SUCCESS ? result : current->broken;
}

API Result cuMemcpyHtoD_v2(DevicePointer to, const void* from, size_t bytes) {
    Result result = cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
    Call call;
    if (!call.error) current->null_stream.drain();
    return result;
}

API Result cuMemcpyDtoH_v2(void* to, DevicePointer from, size_t bytes) {
    Result result = cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
    Call call;
    if (!call.error) current->null_stream.drain();
    return result;
}

API Result cuMemcpyDtoD_v2(DevicePointer to, DevicePointer from, size_t bytes) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
}

API Result cuMemsetD8_v2(DevicePointer to, unsigned char value, size_t bytes) {
    return cuMemsetD8Async(to, value, bytes, nullptr);
}

// The default memory pool. Memory goes back to the host at once, so that the threshold has no effect; usage is counted.

API Result cuDeviceGetDefaultMemPool(void** pool, int handle) {
    if (handle != 0) return INVALID_DEVICE;
    *pool = &primary();
    return SUCCESS;
}

API Result cuDeviceGetMemPool(void** pool, int handle) { return cuDeviceGetDefaultMemPool(pool, handle); }

API Result cuMemAllocFromPoolAsync(DevicePointer* pointer, size_t bytes, void* pool, void* handle) {
    return pool == &primary() ? cuMemAllocAsync(pointer, bytes, handle) : INVALID_HANDLE;
}

API Result cuMemPoolTrimTo(void* pool, size_t) { return pool == &primary() ? SUCCESS : INVALID_HANDLE; }

API Result cuMemPoolSetAttribute(void* pool, int attribute, void* value) {
    Call call;
    if (call.error) return call.error;
    if (pool != &primary()) return INVALID_HANDLE;
    if (attribute == 4) std::memcpy(&current->pool_threshold, value, 8);  // RELEASE_THRESHOLD
    return SUCCESS;
}

API Result cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
    Call call;
    if (call.error) return call.error;
    if (pool != &primary()) return INVALID_HANDLE;
    uint64_t number = 0;
    switch (attribute) {
        case 4: number = current->pool_threshold; break;                 // RELEASE_THRESHOLD
        case 5: case 7: number = emulator::memory().used(); break;       // RESERVED_MEM_CURRENT, USED_MEM_CURRENT
        case 6: case 8: number = emulator::memory().peak(); break;       // RESERVED_MEM_HIGH, USED_MEM_HIGH
        default: return INVALID_VALUE;
    }
    std::memcpy(value, &number, 8);
    return SUCCESS;
}
