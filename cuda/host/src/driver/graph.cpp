// Graphs: captured from streams, or made of nodes; executable ones, whose nodes can be changed; launching them.
#include <algorithm>

#include "driver/state.h"

namespace driver {

void Graph::capture(Work work) {
    std::vector<size_t> after;
    if (!nodes.empty()) after.push_back(nodes.size() - 1);
    nodes.push_back(std::make_unique<Node>(Node{Node::captured, nullptr, std::move(work), std::move(after)}));
}

Result forbid(Stream& stream, const std::string& what) {
    stream.capture->invalidated = true;
    return refuse(CAPTURE_UNSUPPORTED, what);
}

namespace {

// CUDA_KERNEL_NODE_PARAMS of version 2.
struct KernelNode {
    void* function;
    unsigned grid[3], block[3], shared_bytes;
    void **parameters, **extra;
    void *kernel, *context;
};

// CUDA_MEMSET_NODE_PARAMS.
struct MemsetNode {
    DevicePointer to;
    size_t pitch;
    unsigned value, element_bytes;
    size_t width, height;
};

Graph* graph_of(void* handle, const char* call) {
    auto* graph = static_cast<Graph*>(handle);
    if (current->graphs.count(graph)) return graph;
    emulator::report(std::string(call) + ": a graph that does not exist (any more)");
    return nullptr;
}

Executable* executable_of(void* handle, const char* call) {
    auto* executable = static_cast<Executable*>(handle);
    if (current->executables.count(executable)) return executable;
    emulator::report(std::string(call) + ": an executable graph that does not exist (any more)");
    return nullptr;
}

// A node's place in its graph.
Result place_of(const Graph& graph, const void* handle, const char* call, size_t& place) {
    auto found = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const auto& node) { return node.get() == handle; });
    if (found == graph.nodes.end()) return refuse(INVALID_VALUE, std::string(call) + ": a node that is not the graph's");
    place = static_cast<size_t>(found - graph.nodes.begin());
    return SUCCESS;
}

Result work_of(const KernelNode& node, Work& work) {
    return kernel_work(node.function, {node.grid[0], node.grid[1], node.grid[2]}, {node.block[0], node.block[1], node.block[2]},
                       node.shared_bytes, node.parameters, node.extra, work);
}

Result work_of(const MemsetNode& node, Work& work) {
    if (node.element_bytes != 1 || node.height != 1 || node.width == 0) {
        return refuse(INVALID_VALUE, "a memset node that is not one row of bytes is not emulated");
    }
    work = fill_work(node.to, static_cast<unsigned char>(node.value), node.width, "a memset node");
    return SUCCESS;
}

Result add(void** handle, void* graph_handle, void* const* after, size_t count, Node node, const char* call) {
    Graph* graph = graph_of(graph_handle, call);
    if (!graph) return INVALID_HANDLE;
    for (size_t i = 0; i < count; i++) {
        size_t place = 0;
        Result bad = place_of(*graph, after[i], call, place);
        if (bad) return bad;
        node.after.push_back(place);
    }
    graph->nodes.push_back(std::make_unique<Node>(std::move(node)));
    *handle = graph->nodes.back().get();
    return SUCCESS;
}

// The node of an executable graph that is to do other work. Only launches after this call do it.
Result change(void* handle, void* node, Node::Kind kind, const Function* function, Work work, const char* call) {
    Executable* executable = executable_of(handle, call);
    if (!executable) return INVALID_HANDLE;
    if (!current->graphs.count(executable->graph.get())) {
        return refuse(INVALID_VALUE, std::string(call) + ": the graph that the node belongs to was destroyed");
    }
    size_t place = 0;
    Result bad = place_of(*executable->graph, node, call, place);
    if (bad) return bad;
    const Node& original = *executable->graph->nodes[place];
    // Drivers forbid some changes of the function and allow others by their version; nothing here needs any.
    if (original.kind != kind || original.function != function) {
        return refuse(INVALID_VALUE, std::string(call) + ": a node of another kind, or of another function");
    }
    if (current->refused_changes > 0) {
        current->refused_changes--;
        return GRAPH_EXEC_UPDATE_FAILURE;
    }
    if (executable->work.use_count() > 1) executable->work = std::make_shared<std::vector<Work>>(*executable->work);
    (*executable->work)[place] = std::move(work);
    return SUCCESS;
}

// An order that the graph allows: of the nodes that may run, always the one that was added last. Code that forgot to say what a node
// comes after sees the wrong order.
std::vector<size_t> order_of(const Graph& graph) {
    std::vector<size_t> order;
    std::vector<bool> done(graph.nodes.size());
    auto ready = [&](size_t place) {
        const auto& after = graph.nodes[place]->after;
        return !done[place] && std::all_of(after.begin(), after.end(), [&](size_t other) { return done[other]; });
    };
    while (order.size() < graph.nodes.size()) {
        size_t place = graph.nodes.size();
        while (!ready(--place)) {}
        done[place] = true;
        order.push_back(place);
    }
    return order;
}

}  // namespace
}  // namespace driver

using namespace driver;

API Result cuStreamBeginCapture_v2(void* handle, int) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuStreamBeginCapture");
    if (!stream) return INVALID_HANDLE;
    if (stream == &current->null_stream) return CAPTURE_UNSUPPORTED;
    if (stream->capture) return refuse(INVALID_VALUE, "cuStreamBeginCapture: the stream is capturing already");
    stream->capture = std::make_shared<Graph>();
    return SUCCESS;
}

API Result cuStreamEndCapture(void* handle, void** graph) {
    Call call;
    if (call.error) return call.error;
    *graph = nullptr;
    Stream* stream = stream_of(handle, "cuStreamEndCapture");
    if (!stream) return INVALID_HANDLE;
    std::shared_ptr<Graph> captured = stream->capture;
    if (!captured) return CAPTURE_UNMATCHED;
    for (Stream* other : current->streams) {
        if (other->capture == captured) other->capture.reset();
    }
    for (Event* event : current->events) {
        if (event->capture == captured) event->capture.reset();
    }
    stream->capture.reset();
    if (captured->invalidated) return CAPTURE_INVALIDATED;
    current->graphs[captured.get()] = captured;
    *graph = captured.get();
    return SUCCESS;
}

API Result cuStreamIsCapturing(void* handle, int* status) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(handle, "cuStreamIsCapturing");
    if (!stream) return INVALID_HANDLE;
    *status = !stream->capture ? 0 : stream->capture->invalidated ? 2 : 1;
    return SUCCESS;
}

API Result cuGraphCreate(void** handle, unsigned flags) {
    Call call;
    if (call.error) return call.error;
    if (flags != 0) return INVALID_VALUE;
    auto graph = std::make_shared<Graph>();
    current->graphs[graph.get()] = graph;
    *handle = graph.get();
    return SUCCESS;
}

API Result cuGraphAddKernelNode_v2(void** handle, void* graph, void* const* after, size_t count, const KernelNode* parameters) {
    Call call;
    if (call.error) return call.error;
    Node node{Node::kernel, static_cast<const Function*>(parameters->function), {}, {}};
    Result bad = work_of(*parameters, node.work);
    return bad ? bad : add(handle, graph, after, count, std::move(node), "cuGraphAddKernelNode");
}

API Result cuGraphAddMemsetNode(void** handle, void* graph, void* const* after, size_t count, const MemsetNode* parameters, void*) {
    Call call;
    if (call.error) return call.error;
    Node node{Node::memset, nullptr, {}, {}};
    Result bad = work_of(*parameters, node.work);
    return bad ? bad : add(handle, graph, after, count, std::move(node), "cuGraphAddMemsetNode");
}

API Result cuGraphInstantiateWithFlags(void** handle, void* graph_handle, unsigned long long) {
    Call call;
    if (call.error) return call.error;
    Graph* graph = graph_of(graph_handle, "cuGraphInstantiate");
    if (!graph) return INVALID_HANDLE;
    std::vector<Work> work;
    for (const auto& node : graph->nodes) work.push_back(node->work);
    auto* executable =
        new Executable{current->graphs[graph], order_of(*graph), std::make_shared<std::vector<Work>>(std::move(work))};
    current->executables.insert(executable);
    *handle = executable;
    return SUCCESS;
}

API Result cuGraphExecKernelNodeSetParams_v2(void* executable, void* node, const KernelNode* parameters) {
    Call call;
    if (call.error) return call.error;
    Work work;
    Result bad = work_of(*parameters, work);
    if (bad) return bad;
    auto* function = static_cast<const Function*>(parameters->function);
    return change(executable, node, Node::kernel, function, std::move(work), "cuGraphExecKernelNodeSetParams");
}

API Result cuGraphExecMemsetNodeSetParams(void* executable, void* node, const MemsetNode* parameters, void*) {
    Call call;
    if (call.error) return call.error;
    Work work;
    Result bad = work_of(*parameters, work);
    return bad ? bad : change(executable, node, Node::memset, nullptr, std::move(work), "cuGraphExecMemsetNodeSetParams");
}

API Result cuGraphUpload(void* handle, void*) {
    Call call;
    if (call.error) return call.error;
    return executable_of(handle, "cuGraphUpload") ? SUCCESS : INVALID_HANDLE;
}

API Result cuGraphLaunch(void* handle, void* stream_handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(stream_handle, "cuGraphLaunch");
    Executable* executable = executable_of(handle, "cuGraphLaunch");
    if (!stream || !executable) return INVALID_HANDLE;
    current->graph_launches++;
    return stream->submit([work = executable->work, order = executable->order] {
        Result result = SUCCESS;
        for (size_t place : order) {
            Result one = (*work)[place]();
            if (result == SUCCESS) result = one;
        }
        return result;
    });
}

API Result cuGraphDestroy(void* handle) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    if (current->graphs.erase(static_cast<Graph*>(handle)) == 0) return refuse(INVALID_HANDLE, "cuGraphDestroy: not a graph");
    return SUCCESS;
}

// What was launched before goes on.
API Result cuGraphExecDestroy(void* handle) {
    Call call(Call::cleanup);
    if (call.error) return call.error;
    auto* executable = static_cast<Executable*>(handle);
    if (current->executables.erase(executable) == 0) {
        return refuse(INVALID_HANDLE, "cuGraphExecDestroy: not an executable graph");
    }
    delete executable;
    return SUCCESS;
}
