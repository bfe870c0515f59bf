//! Tests of the CUDA kernels without a GPU.
//!
//! The build script compiles the kernels of `cuda/` by the host's C++ compiler, together with an emulator of thread blocks and a
//! stand-in for the driver library, `libcuda.so.1`. With the stand-in loaded, unmodified [`cudarc`] code runs: [`load`] makes it the
//! library that cudarc finds. README.md in this folder says what is checked and how.
//!
//! A program may also be started with the stand-in's [`folder`] in `LD_LIBRARY_PATH`.

mod again;
pub mod nvrtc;

use std::ffi::{c_char, c_int};
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::driver::{CudaFunction, sys};

pub use again::{How, again};

/// How a block's warps take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One warp runs as far as it gets before any other.
    Greedy,
    /// Threads take turns at every synchronising operation.
    RoundRobin,
}

/// When the data of an asynchronous copy is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// At once.
    Eager,
    /// When it is waited for; until then its target holds NaNs.
    Lazy,
}

/// A legal order of execution. Kernels must be right under all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Turns.
    pub order: Order,
    /// Asynchronous copies.
    pub copies: Copies,
    /// Shuffles threads, warps and blocks.
    pub seed: u64,
}

impl Schedule {
    /// The four combinations, each with a seed of its own.
    pub const ALL: [Self; 4] = [
        Self { order: Order::Greedy, copies: Copies::Eager, seed: 1 },
        Self { order: Order::Greedy, copies: Copies::Lazy, seed: 2 },
        Self { order: Order::RoundRobin, copies: Copies::Eager, seed: 3 },
        Self { order: Order::RoundRobin, copies: Copies::Lazy, seed: 4 },
    ];
}

/// The loaded stand-in and its controls.
pub struct StandIn {
    set_schedule: unsafe extern "C" fn(c_int, c_int, u64),
    set_lazy_streams: unsafe extern "C" fn(c_int),
    take_failures: unsafe extern "C" fn(*mut c_char, usize) -> usize,
    launches: unsafe extern "C" fn(*mut [u64; 2]),
    refuse_graph_changes: unsafe extern "C" fn(u64),
}

/// Calls of the driver that launched something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launches {
    /// A kernel by itself.
    pub kernels: u64,
    /// A graph.
    pub graphs: u64,
}

impl std::ops::Sub for Launches {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self { kernels: self.kernels - before.kernels, graphs: self.graphs - before.graphs }
    }
}

impl StandIn {
    /// Launches of the whole process so far.
    pub fn launches(&self) -> Launches {
        let mut counts = [0; 2];
        // SAFETY: the place is this function's.
        unsafe { (self.launches)(&raw mut counts) };
        let [kernels, graphs] = counts;
        Launches { kernels, graphs }
    }

    /// The schedule of the launches that this thread makes from now on.
    pub fn set_schedule(&self, schedule: Schedule) {
        let Schedule { order, copies, seed } = schedule;
        // SAFETY: plain values.
        unsafe {
            (self.set_schedule)((order == Order::Greedy).into(), (copies == Copies::Eager).into(), seed);
        }
    }

    /// Whether what this thread submits to streams waits for a call that synchronises.
    pub fn set_lazy_streams(&self, lazy: bool) {
        // SAFETY: a plain value.
        unsafe { (self.set_lazy_streams)(lazy.into()) }
    }

    /// Refuses the next `count` changes of nodes of executable graphs.
    pub fn refuse_graph_changes(&self, count: u64) {
        // SAFETY: a plain value.
        unsafe { (self.refuse_graph_changes)(count) }
    }

    /// What went wrong since the last call, in all threads, and a context that works again. A process that ends with failures nobody
    /// took ends with exit code 70.
    pub fn take_failures(&self) -> Vec<String> {
        let mut text = vec![0_u8; 1 << 16];
        // SAFETY: the buffer has as many bytes as it is said to.
        let length = unsafe { (self.take_failures)(text.as_mut_ptr().cast(), text.len()) };
        text.truncate(length.min(text.len() - 1));
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

/// Whether tests must not skip themselves: `REQUIRE_CUDA=1`.
pub fn required() -> bool {
    std::env::var_os("REQUIRE_CUDA").is_some_and(|value| value == "1")
}

/// Makes the stand-in the driver library of this process; call it before cudarc's first use. `None`, with a line that says why, where it
/// could not be built.
///
/// # Panics
/// If it is missing and `REQUIRE_CUDA=1`.
pub fn load() -> Option<&'static StandIn> {
    static LOADED: OnceLock<Option<StandIn>> = OnceLock::new();
    let loaded = LOADED.get_or_init(open).as_ref();
    if loaded.is_none() {
        let why = "the stand-in driver was not built: no C++ compiler, or not Linux";
        assert!(!required(), "{why}");
        println!("SKIP: {why}");
    }
    loaded
}

/// The folder of `libcuda.so.1`; of the build with sanitizers, if this process is to use that (`ROENTGEN_EMULATOR_SANITIZED=1`).
pub fn folder() -> Option<PathBuf> {
    let build = if sanitized() { "sanitized" } else { "plain" };
    let built = cfg!(stand_in) && (cfg!(stand_in_sanitized) || !sanitized());
    if built { Some(PathBuf::from(option_env!("EMULATOR_FOLDER")?).join(build)) } else { None }
}

/// Whether this process uses the build with sanitizers.
pub fn sanitized() -> bool {
    std::env::var_os("ROENTGEN_EMULATOR_SANITIZED").is_some_and(|value| value == "1")
}

/// What a process needs in its environment to use the build with sanitizers, whose libraries must come before all others. `None` if
/// there is no such build.
pub fn sanitizer_environment() -> Option<Vec<(&'static str, String)>> {
    if !cfg!(stand_in_sanitized) {
        return None;
    }
    let preload = [option_env!("EMULATOR_ASAN")?, option_env!("EMULATOR_UBSAN")?].join(":");
    Some(vec![
        ("LD_PRELOAD", preload),
        // Leaks are counted by the stand-in; what Rust keeps for the process's life is none.
        ("ASAN_OPTIONS", "detect_leaks=0".to_owned()),
        ("UBSAN_OPTIONS", "print_stacktrace=1".to_owned()),
        ("ROENTGEN_EMULATOR_SANITIZED", "1".to_owned()),
    ])
}

fn open() -> Option<StandIn> {
    let folder = folder()?;
    let path = folder.join("libcuda.so.1");
    // SAFETY: the library's initialisers register kernels, nothing else. It stays loaded for the process's life, as cudarc, which finds it
    // by its name because it is loaded, keeps the addresses of its functions.
    let library =
        unsafe { libloading::Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    // SAFETY: the functions have these signatures in src/driver/device.cpp.
    let stand_in = unsafe {
        StandIn {
            set_schedule: *library.get(b"emulator_set_schedule\0").expect("a control of the stand-in"),
            set_lazy_streams: *library
                .get(b"emulator_set_lazy_streams\0")
                .expect("a control of the stand-in"),
            take_failures: *library.get(b"emulator_take_failures\0").expect("a control of the stand-in"),
            launches: *library.get(b"emulator_launches\0").expect("a control of the stand-in"),
            refuse_graph_changes: *library
                .get(b"emulator_refuse_graph_changes\0")
                .expect("a control of the stand-in"),
        }
    };
    Some(stand_in)
}

/// Sizes in bytes of a kernel's parameters. A launch carries pointers only, so no driver notices an argument of the wrong size, or one too
/// few; whoever builds launches can compare with this (`cuFuncGetParamInfo`, CUDA 12.4).
pub fn parameter_sizes(function: &CudaFunction) -> Vec<usize> {
    let size = |index| {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: the function is loaded, and both places are this function's.
        let result = unsafe {
            sys::cuFuncGetParamInfo(function.cu_function(), index, &raw mut offset, &raw mut bytes)
        };
        (result == sys::CUresult::CUDA_SUCCESS).then_some(bytes)
    };
    (0..).map_while(size).collect()
}
