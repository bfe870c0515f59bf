// What the stand-in driver remembers: one device, its primary context, streams with their queues, events, graphs, modules.
//
// One lock guards all of it, and work runs under it: streams are in order, and nothing overlaps. What a program may rely on is
// narrower than what this gives, so queues can also be held back until a call that synchronises (`ROENTGEN_EMULATOR_STREAMS=lazy`).
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "emulator/launch.h"

#define API extern "C" __attribute__((visibility("default")))

namespace driver {

using Result = int;
// Numbers of `CUresult`.
enum : Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    FILE_NOT_FOUND = 301,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_ISOLATION = 905,
    CAPTURED_EVENT = 907,
    GRAPH_EXEC_UPDATE_FAILURE = 910,
};

using DevicePointer = uint64_t;

struct Stream;

// A piece of work; its result is that of the call that submitted it, if it runs at once.
using Work = std::function<Result()>;

// A moment in a stream, made anew by each record of an event.
struct Mark {
    Stream* stream;
    bool reached = false;
    double milliseconds = 0;
};

struct Function;

// A piece of work of a graph: what it runs, and after which others of the graph.
struct Node {
    enum Kind { captured, kernel, memset } kind;
    const Function* function;  // of a kernel
    Work work;
    std::vector<size_t> after;
};

struct Graph {
    std::vector<std::unique_ptr<Node>> nodes;
    bool invalidated = false;  // a capture in which something was done that captures forbid

    // In the order of submission.
    void capture(Work work);
};

// What a graph was when it was instantiated, with what was changed since. A launch keeps the work as it was at that time.
struct Executable {
    std::shared_ptr<Graph> graph;
    std::vector<size_t> order;
    std::shared_ptr<std::vector<Work>> work;  // by the node's place; shared with launches that have not run
};

struct Stream {
    bool blocking = true;  // waits for the null stream, and it for this
    std::deque<Work> queue;
    std::shared_ptr<Graph> capture;

    Result submit(Work work);
    void drain();
    void drain_until(const Mark& mark);

private:
    Result step();
};

struct Event {
    std::shared_ptr<Mark> mark;
    std::shared_ptr<Graph> capture;  // recorded in a capture instead
    bool timing = true;
};

struct Function {
    const emulator::Kernel* kernel;
    int dynamic_shared_limit = 48 * 1024;  // until cuFuncSetAttribute raises it
};

struct Module {
    std::vector<std::unique_ptr<Function>> functions;
    std::set<std::string> named;  // the functions of machine code; empty where the image was none
    bool machine_code = false;
};

struct Context {
    int retained = 0;
    unsigned flags = 0;
    Result broken = SUCCESS;  // after a kernel failed every call says so, as on hardware
    Stream null_stream, thread_stream;
    std::set<Stream*> streams;
    std::set<Event*> events;
    std::set<Module*> modules;
    std::map<Graph*, std::shared_ptr<Graph>> graphs;
    std::set<Executable*> executables;
    uint64_t kernel_launches = 0, graph_launches = 0;  // calls, for tests that count them
    uint64_t refused_changes = 0;  // of nodes of executable graphs, which the next calls ask for
    std::set<std::pair<uintptr_t, size_t>> registered;  // host memory of cuMemHostRegister
    uint64_t pool_threshold = 0;

    void drain();
};

struct Device {
    int major, minor, multiprocessors;
    size_t memory;
    bool pools;                    // allocation in the order of a stream
    int shared_per_block() const;  // bytes a block can opt in to
};

// From the environment at each call: ROENTGEN_EMULATOR_CAPABILITY=9.0, _MULTIPROCESSORS=132, _MEMORY_MIB=4096, _POOLS=1.
Device device();

struct Settings {
    emulator::Schedule schedule;
    bool lazy_streams = false;
    bool late_frees = false;  // memory is in use until the stream has come to its release
};

// Of the calling thread, so that tests side by side do not disturb each other; first from ROENTGEN_EMULATOR_SCHEDULE
// (`greedy+eager`, …), _SEED, _STREAMS (`lazy`) and _FREES (`late`).
Settings& settings();

Context& primary();
extern thread_local Context* current;
bool& initialised();
std::recursive_mutex& lock();

// Says why a call is refused and gives the code to return.
Result refuse(Result code, const std::string& why);

// Held during a call. `error` is what the call must return at once, if it is not SUCCESS.
class Call {
public:
    enum Kind { normal, cleanup };
    // Cleaning up goes on in a broken context, so that nothing seems to leak.
    explicit Call(Kind kind = normal);
    Result error = SUCCESS;

private:
    std::lock_guard<std::recursive_mutex> guard;
};

// What a stream must answer, if it is capturing, to a call that captures forbid: the capture is lost.
Result forbid(Stream& stream, const std::string& what);

// What a launch and a kernel node of a graph run; refused with a report where the geometry or the arguments are wrong.
Result kernel_work(void* function, const emulator::Dim3& grid, const emulator::Dim3& block, uint32_t shared_bytes, void** parameters,
                   void** extra, Work& work);
Work fill_work(DevicePointer to, unsigned char value, size_t bytes, const char* call);

// The stream of a handle, or null with a report.
Stream* stream_of(void* handle, const char* call);

}  // namespace driver
