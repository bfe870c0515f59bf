//! Graphs of the stand-in driver: captured, made of nodes, changed; and the mistakes that it must see.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUgraphNode, CUresult};
use cudarc::driver::{CudaFunction, CudaSlice, DevicePtr, DriverError, PushKernelArg, result};

use crate::session::{Session, failures_of, run, shape};

const INVALID: &str = "CUDA_ERROR_INVALID_VALUE";
const NO_HANDLE: &str = "CUDA_ERROR_INVALID_HANDLE";

/// Arguments of the kernel `arguments`: `out[i] = scale · i + shift`.
struct Arguments {
    out: u64,
    count: u64,
    scale: f32,
    shift: f64,
}

impl Arguments {
    fn new(session: &Session, out: &CudaSlice<f32>, shift: f64) -> Self {
        Self { out: out.device_ptr(&session.stream).0, count: out.len() as u64, scale: 0.0, shift }
    }

    fn pointers(&mut self) -> [*mut c_void; 4] {
        [
            ptr::from_mut(&mut self.out).cast(),
            ptr::from_mut(&mut self.count).cast(),
            ptr::from_mut(&mut self.scale).cast(),
            ptr::from_mut(&mut self.shift).cast(),
        ]
    }
}

/// One block of 32 threads.
fn kernel(function: &CudaFunction, arguments: *mut *mut c_void) -> sys::CUDA_KERNEL_NODE_PARAMS {
    sys::CUDA_KERNEL_NODE_PARAMS {
        func: function.cu_function(),
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: arguments,
        extra: ptr::null_mut(),
        kern: ptr::null_mut(),
        ctx: ptr::null_mut(),
    }
}

fn zeros(out: u64, bytes: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    sys::CUDA_MEMSET_NODE_PARAMS { dst: out, pitch: 0, value: 0, elementSize: 1, width: bytes, height: 1 }
}

/// A graph and an executable one made of it.
struct Graph {
    graph: CUgraph,
    executable: CUgraphExec,
}

impl Graph {
    fn new(build: impl FnOnce(CUgraph)) -> Self {
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the places are this function's.
        unsafe {
            sys::cuGraphCreate(&raw mut graph, 0).result().expect("a graph");
            build(graph);
            sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0)
                .result()
                .expect("an executable graph");
        }
        Self { graph, executable }
    }

    fn launch(&self, session: &Session) -> Result<(), DriverError> {
        // SAFETY: the tests are about what the stand-in says to wrong handles.
        unsafe { result::graph::launch(self.executable, session.stream.cu_stream()) }
    }

    fn destroy(self) {
        // SAFETY: destroyed once.
        unsafe {
            result::graph::exec_destroy(self.executable).expect("destroyed");
            result::graph::destroy(self.graph).expect("destroyed");
        }
    }
}

fn add_kernel(graph: CUgraph, after: &[CUgraphNode], p: &sys::CUDA_KERNEL_NODE_PARAMS) -> CUgraphNode {
    let mut node = ptr::null_mut();
    // SAFETY: parameters are copied by the call.
    unsafe { sys::cuGraphAddKernelNode_v2(&raw mut node, graph, after.as_ptr(), after.len(), p) }
        .result()
        .expect("a node");
    node
}

fn add_zeros(
    session: &Session,
    graph: CUgraph,
    after: &[CUgraphNode],
    out: u64,
    bytes: usize,
) -> CUgraphNode {
    let mut node = ptr::null_mut();
    let (p, context) = (zeros(out, bytes), session.context.cu_ctx());
    // SAFETY: as above.
    unsafe {
        sys::cuGraphAddMemsetNode(&raw mut node, graph, after.as_ptr(), after.len(), &raw const p, context)
    }
    .result()
    .expect("a node");
    node
}

#[test]
fn are_captured_and_replayed() {
    for lazy in [false, true] {
        run(|session| {
            session.stand_in().set_lazy_streams(lazy);
            // SAFETY: one stream does everything.
            unsafe { session.context.disable_event_tracking() };
            let stream = session.context.new_stream().expect("a stream");
            let function = session.function("count_threads");
            let mut sum = stream.alloc_zeros::<f32>(1).expect("an allocation");
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            stream.begin_capture(mode).expect("a capture");
            for _ in 0..2 {
                // SAFETY: the argument is the kernel's.
                unsafe { stream.launch_builder(&function).arg(&mut sum).launch(shape(1, 5, 0)) }
                    .expect("a launch");
            }
            let graph =
                stream.end_capture(sys::CUgraphInstantiate_flags(0)).expect("a graph").expect("a graph");
            assert_eq!(stream.clone_dtoh(&sum).expect("a download"), [0.0], "capturing runs nothing");
            for _ in 0..3 {
                graph.launch().expect("a launch");
            }
            assert_eq!(stream.clone_dtoh(&sum).expect("a download"), [30.0]);
        });
    }
}

#[test]
fn a_wait_invalidates_a_capture() {
    run(|session| {
        // SAFETY: one stream does everything.
        unsafe { session.context.disable_event_tracking() };
        let stream = session.context.new_stream().expect("a stream");
        let function = session.function("count_threads");
        let mut sum = stream.alloc_zeros::<f32>(1).expect("an allocation");
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).expect("a capture");
        let unsupported = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
        session.fails(stream.synchronize(), unsupported, &["while the stream is capturing"]);
        // SAFETY: the argument is the kernel's.
        let launched = unsafe { stream.launch_builder(&function).arg(&mut sum).launch(shape(1, 5, 0)) };
        let lost = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        assert_eq!(launched.expect_err("a lost capture").0, lost);
        let ended = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        assert_eq!(ended.err().expect("a lost capture").0, lost);
        assert_eq!(stream.clone_dtoh(&sum).expect("the stream works again"), [0.0]);
    });
}

#[test]
fn nodes_can_be_changed() {
    for lazy in [false, true] {
        run(|session| {
            session.stand_in().set_lazy_streams(lazy);
            let function = session.function("arguments");
            let [a, b, c] = [8, 8, 8].map(|n| session.stream.alloc_zeros::<f32>(n).expect("an allocation"));
            let mut first = Arguments::new(session, &a, 3.0);
            let mut nodes = [ptr::null_mut(); 2];
            let graph = Graph::new(|graph| {
                nodes[0] = add_kernel(graph, &[], &kernel(&function, first.pointers().as_mut_ptr()));
                nodes[1] = add_zeros(session, graph, &nodes[..1], first.out, 16);
            });
            let before = session.stand_in().launches();
            graph.launch(session).expect("a launch");
            // What was launched before a change is as it was, even if it runs later.
            let mut second = Arguments::new(session, &b, 4.0);
            let mut pointers = second.pointers();
            let (p, z) = (kernel(&function, pointers.as_mut_ptr()), zeros(second.out, 4));
            // SAFETY: parameters are copied by the calls.
            unsafe {
                sys::cuGraphExecKernelNodeSetParams_v2(graph.executable, nodes[0], &raw const p)
                    .result()
                    .expect("a change");
                let context = session.context.cu_ctx();
                sys::cuGraphExecMemsetNodeSetParams(graph.executable, nodes[1], &raw const z, context)
                    .result()
                    .expect("a change");
            }
            graph.launch(session).expect("a launch");
            let launches = session.stand_in().launches() - before;
            assert_eq!((launches.kernels, launches.graphs), (0, 2));
            assert_eq!(session.download(&a), [0.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0]);
            assert_eq!(session.download(&b), [0.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]);
            assert_eq!(session.download(&c), [0.0; 8]);
            graph.destroy();
        });
    }
}

/// The stand-in runs nodes in an order that the graph allows and its maker did not think of.
#[test]
fn a_missing_dependency_shows() {
    run(|session| {
        let function = session.function("arguments");
        let out = session.fresh(8);
        for said in [true, false] {
            let mut arguments = Arguments::new(session, &out, 5.0);
            let graph = Graph::new(|graph| {
                let node = add_zeros(session, graph, &[], arguments.out, 32);
                let after = [node];
                let after = if said { &after[..] } else { &[] };
                add_kernel(graph, after, &kernel(&function, arguments.pointers().as_mut_ptr()));
            });
            graph.launch(session).expect("a launch");
            assert_eq!(session.download(&out), if said { [5.0; 8] } else { [0.0; 8] });
            graph.destroy();
        }
    });
}

#[test]
fn wrong_changes_are_refused() {
    run(|session| {
        let (function, other) = (session.function("arguments"), session.function("count_threads"));
        let out = session.stream.alloc_zeros::<f32>(8).expect("an allocation");
        let mut arguments = Arguments::new(session, &out, 1.0);
        let mut pointers = arguments.pointers();
        let mut node = ptr::null_mut();
        let good = kernel(&function, pointers.as_mut_ptr());
        let graph = Graph::new(|graph| node = add_kernel(graph, &[], &good));
        let change = |executable, node, p: &sys::CUDA_KERNEL_NODE_PARAMS| {
            // SAFETY: what is wrong here is what the stand-in must see.
            unsafe { sys::cuGraphExecKernelNodeSetParams_v2(executable, node, p) }.result()
        };
        session.fails(
            change(graph.executable, node, &kernel(&other, pointers.as_mut_ptr())),
            INVALID,
            &["of another function"],
        );
        // A block of arguments that is too short: pointer 1, its size 2, the end 0.
        let (block, bytes) = ([0_u64; 4], 24_usize);
        let mut extra: [*mut c_void; 5] = [
            ptr::without_provenance_mut(1),
            block.as_ptr().cast_mut().cast(),
            ptr::without_provenance_mut(2),
            ptr::from_ref(&bytes).cast_mut().cast(),
            ptr::null_mut(),
        ];
        let mut short = kernel(&function, ptr::null_mut());
        short.extra = extra.as_mut_ptr();
        session.fails(
            change(graph.executable, node, &short),
            INVALID,
            &["takes 32 bytes of arguments, not 24"],
        );
        let mut missing = [pointers[0], pointers[1], ptr::null_mut(), ptr::null_mut()];
        session.fails(
            change(graph.executable, node, &kernel(&function, missing.as_mut_ptr())),
            INVALID,
            &["argument 2 is missing"],
        );
        let mut wide = good;
        wide.blockDimX = 1025;
        session.fails(change(graph.executable, node, &wide), INVALID, &["over 1024 threads"]);
        session.fails(
            change(graph.executable, ptr::dangling_mut(), &good),
            INVALID,
            &["a node that is not the graph's"],
        );
        // After all that it is what it was.
        graph.launch(session).expect("a launch");
        assert_eq!(session.download(&out), [1.0; 8]);
        // SAFETY: destroyed once.
        unsafe { result::graph::destroy(graph.graph) }.expect("destroyed");
        session.fails(change(graph.executable, node, &good), INVALID, &["belongs to was destroyed"]);
        // SAFETY: destroyed once.
        unsafe { result::graph::exec_destroy(graph.executable) }.expect("destroyed");
        session.fails(change(graph.executable, node, &good), NO_HANDLE, &["does not exist (any more)"]);
        session.fails(graph.launch(session), NO_HANDLE, &["cuGraphLaunch", "does not exist (any more)"]);
    });
}

#[test]
fn memory_that_a_graph_refers_to_must_live() {
    run(|session| {
        let function = session.function("arguments");
        let out = session.fresh(8);
        let mut arguments = Arguments::new(session, &out, 1.0);
        let graph = Graph::new(|graph| {
            add_kernel(graph, &[], &kernel(&function, arguments.pointers().as_mut_ptr()));
        });
        graph.launch(session).expect("a launch");
        drop(out);
        graph.launch(session).expect("the launch itself");
        session.fails(
            session.stream.synchronize(),
            "CUDA_ERROR_ILLEGAL_ADDRESS",
            &["argument 0 is a pointer outside every live allocation", "freed"],
        );
        graph.destroy();
    });
}

#[test]
fn graphs_that_are_left_are_reported() {
    if cuda_host::load().is_none() {
        return;
    }
    let failures = failures_of(|_| {
        Graph::new(|_| {});
    });
    let what = ["1 graph(s)", "1 executable graph(s)"];
    assert_eq!(failures.len(), what.len(), "{failures:#?}");
    assert!(failures.iter().zip(what).all(|(failure, what)| failure.contains(what)), "{failures:#?}");
}
