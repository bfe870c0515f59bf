//! CUDA graphs of work that comes again. Within a step ([`crate::Device::step`]) launches are noted instead of made; a stretch of them is launched
//! at the end of the step, before anything is read, and when it is long enough: plainly when such a stretch comes for the first
//! time, later as a graph, of which only the nodes are changed whose grid or arguments are others than before.
//!
//! A graph refers to memory, but never keeps any: before each launch its nodes are compared with what was noted, whose memory is
//! lent, and memory goes back to the device only after what was noted has been launched ([`super::buffer`]). The device takes a launch's
//! arguments as they are at the time of the launch; changes are for later ones.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::availability::text;
use super::modules::Function;

/// `0` turns graphs off.
const SWITCH: &str = "ROENTGEN_CUDA_GRAPHS";
/// Commands of a step's first stretch. Each further one is twice as long, up to [`LONGEST`]: the device begins early, and is never
/// done with one before the host has noted the next, if a launch takes it as long as noting one takes the host.
const FIRST: usize = 32;
const LONGEST: usize = 256;
/// Shorter stretches are launched plainly.
const SHORTEST: usize = 4;
/// Graphs for one place in a step: work that alternates between two sets of buffers has two.
const VARIANTS: usize = 4;
/// A further one is made if more than this part of the nodes of the nearest would have to be changed.
const NEAR: usize = 4;
/// Most graphs at one time; the one that was not used for longest goes first.
const MOST: usize = 256;
/// Most stretches that are remembered.
const REMEMBERED: usize = 4096;

/// What was done with graphs since the device was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Graphs made.
    pub made: u64,
    /// Launches of graphs.
    pub launched: u64,
    /// Nodes of graphs that were changed for a launch.
    pub changed: u64,
    /// Commands that were noted and then launched by themselves.
    pub plain: u64,
}

/// Blocks of a grid, threads of a block, bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 2],
    pub(super) shared: u32,
}

/// A driver's error, and in which noted command; empty if in none.
pub(super) struct Failed {
    pub(super) what: String,
    pub(super) error: DriverError,
}

impl From<DriverError> for Failed {
    fn from(error: DriverError) -> Self {
        Self { what: String::new(), error }
    }
}

/// Where a launch reads its arguments.
fn arguments(function: &Function, words: &[u64]) -> Vec<*mut c_void> {
    assert_eq!(words.len(), function.words());
    // SAFETY: parameters lie within the block, whose length was compared; the driver only reads.
    let at = |offset| unsafe { words.as_ptr().cast::<u8>().add(offset) };
    function.parameters.iter().map(|p| at(p.offset).cast_mut().cast()).collect()
}

/// Launches a kernel at once.
///
/// # Safety
/// `words` must be what the kernel takes, and its pointers of memory that it may read or write as it does.
pub(super) unsafe fn launch_kernel(
    stream: &CudaStream,
    function: &Function,
    shape: Shape,
    words: &[u64],
) -> Result<(), DriverError> {
    let mut arguments = arguments(function, words);
    let Shape { grid, block: [x, y], shared } = shape;
    let kernel = function.function.cu_function();
    // SAFETY: passed on to the caller.
    unsafe {
        result::launch_kernel(kernel, grid.into(), (x, y, 1), shared, stream.cu_stream(), &mut arguments)
    }
}

#[derive(Clone)]
enum What {
    Kernel {
        op: &'static str,
        function: Arc<Function>,
        shape: Shape,
    },
    /// Zeros.
    Clear {
        address: u64,
        bytes: usize,
    },
}

#[derive(Clone)]
struct Command {
    what: What,
    /// First word of its arguments.
    at: usize,
}

/// Commands in their order, with their arguments.
#[derive(Default)]
struct Log {
    commands: Vec<Command>,
    words: Vec<u64>,
}

impl Log {
    fn clear(&mut self) {
        self.commands.clear();
        self.words.clear();
    }

    fn arguments(&self, i: usize) -> &[u64] {
        let end = self.commands.get(i + 1).map_or(self.words.len(), |next| next.at);
        &self.words[self.commands[i].at..end]
    }

    /// Which kernels stand here in which order (FNV-1a): the rest can be changed in a graph.
    fn signature(&self) -> u64 {
        let each = self.commands.iter().map(|command| match &command.what {
            What::Kernel { function, .. } => Arc::as_ptr(function) as u64,
            What::Clear { .. } => 1,
        });
        each.fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x0100_0000_01b3))
    }

    fn same(&self, other: &Self, i: usize) -> bool {
        let alike = match (&self.commands[i].what, &other.commands[i].what) {
            (
                What::Kernel { function: f, shape: s, .. },
                What::Kernel { function: other_f, shape: other_s, .. },
            ) => Arc::ptr_eq(f, other_f) && s == other_s,
            (What::Clear { address: a, bytes: n }, What::Clear { address: other_a, bytes: other_n }) => {
                (a, n) == (other_a, other_n)
            }
            _ => false,
        };
        alike && self.arguments(i) == other.arguments(i)
    }

    /// Whether a graph of `other` can be changed into one of this.
    fn fits(&self, other: &Self) -> bool {
        let kernel = |log: &Self, i: usize| match &log.commands[i].what {
            What::Kernel { function, .. } => Some(Arc::as_ptr(function)),
            What::Clear { .. } => None,
        };
        self.commands.len() == other.commands.len()
            && (0..self.commands.len()).all(|i| kernel(self, i) == kernel(other, i))
    }

    fn differences(&self, other: &Self) -> usize {
        (0..self.commands.len()).filter(|&i| !self.same(other, i)).count()
    }

    fn describe(&self, i: usize) -> String {
        match &self.commands[i].what {
            What::Kernel { op, function, shape } => format!("{op} ({}, {shape:?})", function.name),
            What::Clear { bytes, .. } => format!("zeros of {bytes} bytes"),
        }
    }

    fn launch(&self, stream: &CudaStream) -> Result<(), Failed> {
        for (i, command) in self.commands.iter().enumerate() {
            let done = match &command.what {
                What::Kernel { function, shape, .. } => {
                    // SAFETY: what was noted is what `Stream::launch` was called with; its memory is lent, or was freed to the pool since, which lends it again
                    // only for work that is noted or launched later.
                    unsafe { launch_kernel(stream, function, *shape, self.arguments(i)) }
                }
                What::Clear { address, bytes } => {
                    // SAFETY: as above.
                    unsafe { result::memset_d8_async(*address, 0, *bytes, stream.cu_stream()) }
                }
            };
            done.map_err(|error| Failed { what: self.describe(i), error })?;
        }
        Ok(())
    }
}

/// An executable graph: one node after the other.
struct Graph {
    stream: Arc<CudaStream>,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    nodes: Vec<sys::CUgraphNode>,
    /// What its nodes do.
    log: Log,
    /// When it was used last.
    used: u64,
}

// SAFETY: handles of the driver, used by one thread at a time: they lie in the stream, behind its lock.
unsafe impl Send for Graph {}

impl Graph {
    /// A graph of the commands of `log`, which it takes if it succeeds.
    fn new(stream: &Arc<CudaStream>, log: &mut Log) -> Result<Self, DriverError> {
        let mut new = Self {
            stream: stream.clone(),
            graph: ptr::null_mut(),
            executable: ptr::null_mut(),
            nodes: Vec::with_capacity(log.commands.len()),
            log: Log::default(),
            used: 0,
        };
        // SAFETY: the place is this function's.
        unsafe { sys::cuGraphCreate(&raw mut new.graph, 0) }.result()?;
        for i in 0..log.commands.len() {
            let (mut node, mut pointers) = (ptr::null_mut(), Vec::new());
            let before = &new.nodes[i.saturating_sub(1)..i];
            let (after, count) = (before.as_ptr(), before.len());
            // SAFETY: graph and nodes are the driver's; parameters are copied by the call.
            unsafe {
                match Parameters::of(log, i, &mut pointers) {
                    Parameters::Kernel(p) => {
                        sys::cuGraphAddKernelNode_v2(&raw mut node, new.graph, after, count, &raw const p)
                    }
                    Parameters::Clear(p) => {
                        let context = stream.context().cu_ctx();
                        sys::cuGraphAddMemsetNode(
                            &raw mut node,
                            new.graph,
                            after,
                            count,
                            &raw const p,
                            context,
                        )
                    }
                }
            }
            .result()?;
            new.nodes.push(node);
        }
        // SAFETY: the graph was made above, the place is this function's.
        unsafe { sys::cuGraphInstantiateWithFlags(&raw mut new.executable, new.graph, 0) }.result()?;
        new.log = std::mem::take(log);
        Ok(new)
    }

    /// Changes the nodes that `log` has otherwise; returns how many. `log` gets what they were.
    fn change(&mut self, log: &mut Log) -> Result<u64, Failed> {
        let mut changed = 0;
        for i in (0..self.nodes.len()).filter(|&i| !log.same(&self.log, i)) {
            let mut pointers = Vec::new();
            let (executable, node) = (self.executable, self.nodes[i]);
            // SAFETY: the node is of the graph that the executable one was made of, which lives as long; parameters are copied by the call.
            let done = unsafe {
                match Parameters::of(log, i, &mut pointers) {
                    Parameters::Kernel(p) => {
                        sys::cuGraphExecKernelNodeSetParams_v2(executable, node, &raw const p)
                    }
                    Parameters::Clear(p) => {
                        let context = self.stream.context().cu_ctx();
                        sys::cuGraphExecMemsetNodeSetParams(executable, node, &raw const p, context)
                    }
                }
            };
            done.result().map_err(|error| Failed { what: log.describe(i), error })?;
            changed += 1;
        }
        std::mem::swap(&mut self.log, log);
        Ok(changed)
    }

    fn launch(&self) -> Result<(), DriverError> {
        // SAFETY: the graph is this one's; the memory of its nodes is that of what was noted.
        unsafe { result::graph::launch(self.executable, self.stream.cu_stream()) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let context = self.stream.context();
        context.record_err(context.bind_to_thread());
        // SAFETY: made by `new`, destroyed once; launches under way go on.
        unsafe {
            if !self.executable.is_null() {
                context.record_err(result::graph::exec_destroy(self.executable));
            }
            if !self.graph.is_null() {
                context.record_err(result::graph::destroy(self.graph));
            }
        }
    }
}

/// A node's parameters, as the driver takes them.
enum Parameters {
    Kernel(sys::CUDA_KERNEL_NODE_PARAMS),
    Clear(sys::CUDA_MEMSET_NODE_PARAMS),
}

impl Parameters {
    /// Of command `i`. They point to `pointers` and to the log.
    fn of(log: &Log, i: usize, pointers: &mut Vec<*mut c_void>) -> Self {
        match &log.commands[i].what {
            What::Kernel { function, shape, .. } => {
                *pointers = arguments(function, log.arguments(i));
                Self::Kernel(sys::CUDA_KERNEL_NODE_PARAMS {
                    func: function.function.cu_function(),
                    gridDimX: shape.grid[0],
                    gridDimY: shape.grid[1],
                    gridDimZ: shape.grid[2],
                    blockDimX: shape.block[0],
                    blockDimY: shape.block[1],
                    blockDimZ: 1,
                    sharedMemBytes: shape.shared,
                    kernelParams: pointers.as_mut_ptr(),
                    extra: ptr::null_mut(),
                    kern: ptr::null_mut(),
                    ctx: ptr::null_mut(),
                })
            }
            &What::Clear { address, bytes } => Self::Clear(sys::CUDA_MEMSET_NODE_PARAMS {
                dst: address,
                pitch: 0,
                value: 0,
                elementSize: 1,
                width: bytes,
                height: 1,
            }),
        }
    }
}

/// A stretch of commands: the step, how many came before it in the step, which kernels it has.
type Key = (&'static str, usize, u64);

/// What was noted, and the graphs.
pub(super) struct Graphs {
    stream: Arc<CudaStream>,
    on: bool,
    /// Steps that have begun and not ended.
    depth: usize,
    name: &'static str,
    /// Stretches of this step that were launched.
    stretch: usize,
    log: Log,
    /// Graphs of each stretch that was seen; none yet after the first time.
    seen: HashMap<Key, Vec<Graph>>,
    /// Launches of graphs and stretches, for the order of use.
    time: u64,
    counts: Counts,
}

impl Graphs {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self {
            stream,
            on: std::env::var_os(SWITCH).is_none_or(|v| v != "0"),
            depth: 0,
            name: "",
            stretch: 0,
            log: Log::default(),
            seen: HashMap::new(),
            time: 0,
            counts: Counts::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn use_graphs(&mut self, on: bool) {
        self.on = on;
    }

    pub(super) fn begin(&mut self, name: &'static str) {
        if self.depth == 0 {
            (self.name, self.stretch) = (name, 0);
        }
        self.depth += 1;
    }

    /// Whether this ends the outermost step.
    pub(super) fn end(&mut self) -> bool {
        self.depth = self.depth.saturating_sub(1);
        self.depth == 0
    }

    /// Whether commands are to be noted.
    pub(super) fn notes(&self) -> bool {
        self.on && self.depth > 0
    }

    pub(super) fn note_kernel(
        &mut self,
        op: &'static str,
        function: &Arc<Function>,
        shape: Shape,
        words: &[u64],
    ) {
        let what = What::Kernel { op, function: function.clone(), shape };
        self.log.commands.push(Command { what, at: self.log.words.len() });
        self.log.words.extend_from_slice(words);
    }

    pub(super) fn note_clear(&mut self, address: u64, bytes: usize) {
        let what = What::Clear { address, bytes };
        self.log.commands.push(Command { what, at: self.log.words.len() });
    }

    /// Whether the stretch is to be launched now.
    pub(super) fn full(&self) -> bool {
        self.log.commands.len() >= (FIRST << self.stretch.min(16)).min(LONGEST)
    }

    /// Launches what was noted.
    pub(super) fn flush(&mut self) -> Result<(), Failed> {
        if self.log.commands.is_empty() {
            return Ok(());
        }
        let mut log = std::mem::take(&mut self.log);
        let done = self.launch(&mut log);
        // Its memory is of use again.
        log.clear();
        self.log = log;
        self.stretch += 1;
        done
    }

    fn launch(&mut self, log: &mut Log) -> Result<(), Failed> {
        self.stream.context().bind_to_thread()?;
        self.time += 1;
        let key = (self.name, self.stretch, log.signature());
        if log.commands.len() < SHORTEST || !self.seen.contains_key(&key) {
            if self.seen.len() >= REMEMBERED {
                self.seen.clear();
            }
            if log.commands.len() >= SHORTEST {
                self.seen.insert(key, Vec::new());
            }
            return self.launch_plainly(log);
        }
        let variants = self.seen.get_mut(&key).expect("looked for above");
        let each = variants.iter().enumerate().filter(|(_, graph)| log.fits(&graph.log));
        let nearest = each.map(|(i, graph)| (log.differences(&graph.log), i)).min();
        let full = variants.len() == VARIANTS;
        let at = match nearest {
            Some((differences, i)) if full || differences <= log.commands.len() / NEAR => {
                match variants[i].change(log) {
                    Ok(changed) => self.counts.changed += changed,
                    Err(Failed { what, error }) => {
                        // Some of its nodes do other work than it knows of; what was noted is as it was.
                        variants.swap_remove(i);
                        tracing::debug!("a CUDA graph is made anew: {what}: {}", text(error));
                        return self.launch_plainly(log);
                    }
                }
                i
            }
            _ if full => return self.launch_plainly(log),
            _ => match Graph::new(&self.stream, log) {
                Ok(graph) => {
                    self.counts.made += 1;
                    variants.push(graph);
                    variants.len() - 1
                }
                Err(e) => {
                    // A driver that makes no graph runs everything else.
                    tracing::warn!("CUDA graphs are off: {}", text(e));
                    self.on = false;
                    return self.launch_plainly(log);
                }
            },
        };
        variants[at].used = self.time;
        variants[at].launch()?;
        self.counts.launched += 1;
        self.make_room();
        Ok(())
    }

    fn launch_plainly(&mut self, log: &Log) -> Result<(), Failed> {
        self.counts.plain += log.commands.len() as u64;
        log.launch(&self.stream)
    }

    /// Forgets the graph that was not used for longest, if there are too many.
    fn make_room(&mut self) {
        if self.seen.values().map(Vec::len).sum::<usize>() <= MOST {
            return;
        }
        let oldest = self.seen.values_mut().filter(|v| !v.is_empty());
        let used = |variants: &Vec<Graph>| variants.iter().map(|g| g.used).min();
        if let Some(variants) = oldest.min_by_key(|v| used(v)) {
            let oldest = used(variants);
            variants.retain(|graph| Some(graph.used) != oldest);
        }
    }
}
