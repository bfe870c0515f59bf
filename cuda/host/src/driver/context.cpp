// The primary context: retained and released; on release everything must have been given back.
#include "driver/state.h"

namespace driver {

void Context::drain() {
    null_stream.drain();
    thread_stream.drain();
    for (Stream* stream : streams) stream->drain();
}

}  // namespace driver

using namespace driver;

API Result cuDevicePrimaryCtxRetain(void** context, int handle) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (!initialised()) return NOT_INITIALIZED;
    if (handle != 0) return INVALID_DEVICE;
    primary().retained++;
    *context = &primary();
    return SUCCESS;
}

API Result cuDevicePrimaryCtxRelease_v2(int handle) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (handle != 0) return INVALID_DEVICE;
    Context& context = primary();
    if (context.retained == 0) return refuse(INVALID_CONTEXT, "the primary context is released more often than retained");
    if (--context.retained > 0) return SUCCESS;
    context.drain();
    Result result = SUCCESS;
    std::string leak = emulator::memory().release_all();
    if (!leak.empty()) result = refuse(INVALID_VALUE, "leak at the release of the context: " + leak);
    auto count = [&](size_t live, const char* what) {
        if (live == 0) return;
        result = refuse(INVALID_VALUE, emulator::format("leak at the release of the context: %zu %s", live, what));
    };
    count(context.streams.size(), "stream(s)");
    count(context.events.size(), "event(s)");
    count(context.modules.size(), "module(s)");
    count(context.graphs.size(), "graph(s)");
    count(context.executables.size(), "executable graph(s)");
    for (Stream* stream : context.streams) delete stream;
    for (Event* event : context.events) delete event;
    for (Module* module : context.modules) delete module;
    for (Executable* executable : context.executables) delete executable;
    context.streams.clear();
    context.events.clear();
    context.modules.clear();
    context.graphs.clear();
    context.executables.clear();
    context.registered.clear();
    context.broken = SUCCESS;
    context.pool_threshold = 0;
    return result;
}

API Result cuCtxSetCurrent(void* context) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (context && context != &primary()) return refuse(INVALID_CONTEXT, "cuCtxSetCurrent: not a context");
    current = static_cast<Context*>(context);
    return SUCCESS;
}

API Result cuCtxGetCurrent(void** context) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (!initialised()) return NOT_INITIALIZED;
    *context = current;
    return SUCCESS;
}

API Result cuCtxGetDevice(int* handle) {
    Call call;
    if (call.error) return call.error;
    *handle = 0;
    return SUCCESS;
}

API Result cuCtxSynchronize() {
    Call call;
    if (call.error) return call.error;
    for (Stream* stream : current->streams) {
        if (stream->capture) return forbid(*stream, "cuCtxSynchronize while a stream is capturing");
    }
    current->drain();
    return current->broken;
}

API Result cuCtxSetFlags(unsigned flags) {
    Call call;
    if (call.error) return call.error;
    current->flags = flags;
    return SUCCESS;
}

API Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    Call call;
    if (call.error) return call.error;
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}
