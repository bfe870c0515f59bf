// Streams and events.
#include <chrono>

#include "driver/state.h"

namespace driver {
namespace {

double now() {
    auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double, std::milli>(since).count();
}

}  // namespace

Result Stream::step() {
    Work work = std::move(queue.front());
    queue.pop_front();
    // In a broken context nothing runs any more; what is queued is forgotten, except that frees must not seem to leak.
    return work();
}

void Stream::drain() {
    while (!queue.empty()) step();
}

void Stream::drain_until(const Mark& mark) {
    while (!mark.reached && !queue.empty()) step();
}

Result Stream::submit(Work work) {
    if (capture) {
        if (capture->invalidated) return CAPTURE_INVALIDATED;
        capture->capture(std::move(work));
        return SUCCESS;
    }
    // The null stream and blocking streams wait for each other.
    if (this == &current->null_stream) {
        current->thread_stream.drain();
        for (Stream* other : current->streams) {
            if (other->blocking) other->drain();
        }
    } else if (blocking) {
        current->null_stream.drain();
    }
    queue.push_back(std::move(work));
    if (settings().lazy_streams) return SUCCESS;
    while (queue.size() > 1) step();
    return queue.empty() ? SUCCESS : step();
}

Stream* stream_of(void* handle, const char* call) {
    uintptr_t number = reinterpret_cast<uintptr_t>(handle);
    if (number <= 1) return &current->null_stream;
    if (number == 2) return &current->thread_stream;
    auto* stream = static_cast<Stream*>(handle);
    if (current->streams.count(stream)) return stream;
    emulator::report(std::string(call) + ": a stream that does not exist (any more)");
    return nullptr;
}

}  // namespace driver

using namespace driver;

API Result cuStreamCreate(void** handle, unsigned flags) {
    Call call;
    if (call.error) return call.error;
    auto* stream = new Stream;
    stream->blocking = (flags & 1) == 0;  // CU_STREAM_NON_BLOCKING
    current->streams.insert(stream);
    *handle = stream;
    return SUCCESS;
}

API Result cuStreamCreateWithPriority(void** handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }

API Result cuStreamDestroy_v2(void* handle) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    auto* stream = static_cast<Stream*>(handle);
    if (!current->streams.count(stream)) return refuse(INVALID_HANDLE, "cuStreamDestroy: not a stream");
    stream->drain();
    current->streams.erase(stream);
    delete stream;
    return SUCCESS;
}

API Result cuStreamSynchronize(void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuStreamSynchronize");
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return forbid(*stream, "cuStreamSynchronize while the stream is capturing");
    stream->drain();
    return current->broken;
}

API Result cuStreamQuery(void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuStreamQuery");
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return forbid(*stream, "cuStreamQuery while the stream is capturing");
    return stream->queue.empty() ? SUCCESS : NOT_READY;
}

API Result cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuStreamWaitEvent");
    auto* event = static_cast<Event*>(event_handle);
    if (!stream || !current->events.count(event)) return INVALID_HANDLE;
    if (event->capture) {
        // A stream that waits for captured work joins the capture; the graph keeps the order of submission, which is a legal one.
        if (stream->capture && stream->capture != event->capture) return CAPTURE_ISOLATION;
        stream->capture = event->capture;
        return SUCCESS;
    }
    if (stream->capture) return CAPTURE_ISOLATION;
    std::shared_ptr<Mark> mark = event->mark;
    if (!mark) return SUCCESS;
    return stream->submit([mark] {
        if (!mark->reached) mark->stream->drain_until(*mark);
        return SUCCESS;
    });
}

API Result cuLaunchHostFunc(void* handle, void (*function)(void*), void* argument) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuLaunchHostFunc");
    if (!stream) return INVALID_HANDLE;
    return stream->submit([=] {
        function(argument);
        return SUCCESS;
    });
}

API Result cuEventCreate(void** handle, unsigned flags) {
    Call call;
    if (call.error) return call.error;
    auto* event = new Event;
    event->timing = (flags & 2) == 0;  // CU_EVENT_DISABLE_TIMING
    current->events.insert(event);
    *handle = event;
    return SUCCESS;
}

API Result cuEventDestroy_v2(void* handle) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    auto* event = static_cast<Event*>(handle);
    if (current->events.erase(event) == 0) return refuse(INVALID_HANDLE, "cuEventDestroy: not an event");
    delete event;
    return SUCCESS;
}

API Result cuEventRecord(void* handle, void* stream_handle) {
    Call call;
    if (call.error) return call.error;
    auto* event = static_cast<Event*>(handle);
    Stream* stream = stream_of(stream_handle, "cuEventRecord");
    if (!stream || !current->events.count(event)) return INVALID_HANDLE;
    event->capture = stream->capture;
    if (stream->capture) {
        event->mark.reset();
        return SUCCESS;
    }
    auto mark = std::make_shared<Mark>(Mark{stream});
    event->mark = mark;
    return stream->submit([mark] {
        mark->reached = true;
        mark->milliseconds = now();
        return SUCCESS;
    });
}

API Result cuEventQuery(void* handle) {
    Call call;
    if (call.error) return call.error;
    auto* event = static_cast<Event*>(handle);
    if (!current->events.count(event)) return INVALID_HANDLE;
    if (event->capture) return CAPTURED_EVENT;
    if (!event->mark || event->mark->reached) return SUCCESS;
    // Not yet; but whoever asks in a loop must see it come.
    event->mark->stream->drain_until(*event->mark);
    return NOT_READY;
}

API Result cuEventSynchronize(void* handle) {
    Call call;
    if (call.error) return call.error;
    auto* event = static_cast<Event*>(handle);
    if (!current->events.count(event)) return INVALID_HANDLE;
    if (event->capture) return CAPTURED_EVENT;
    if (event->mark && !event->mark->reached) event->mark->stream->drain_until(*event->mark);
    return current->broken;
}

// Time on the host, of the emulation: orders of magnitude, no speed of anything.
API Result cuEventElapsedTime_v2(float* milliseconds, void* start_handle, void* end_handle) {
    Call call;
    if (call.error) return call.error;
    auto* start = static_cast<Event*>(start_handle);
    auto* end = static_cast<Event*>(end_handle);
    if (!current->events.count(start) || !current->events.count(end)) return INVALID_HANDLE;
    if (!start->timing || !end->timing || !start->mark || !end->mark) return INVALID_HANDLE;
    if (!start->mark->reached || !end->mark->reached) return NOT_READY;
    *milliseconds = static_cast<float>(end->mark->milliseconds - start->mark->milliseconds);
    return SUCCESS;
}

API Result cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
