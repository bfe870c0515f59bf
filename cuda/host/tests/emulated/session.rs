//! A context on the stand-in driver for one test at a time.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cuda_host::{Schedule, StandIn, nvrtc};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, DriverError, LaunchConfig, sys,
};
use cudarc::nvrtc::Ptx;

/// What a test works with. Dropped at its end, which releases the context.
pub(crate) struct Session {
    stand_in: Option<&'static StandIn>,
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    modules: Vec<Arc<CudaModule>>,
}

/// One test at a time has the device: a failing kernel breaks the context for all.
static ALONE: Mutex<()> = Mutex::new(());

/// Whether tests of kernels run on this machine's GPU: `ROENTGEN_CUDA=device`.
fn on_hardware() -> bool {
    std::env::var_os("ROENTGEN_CUDA").is_some_and(|value| value == "device")
}

/// Runs `test` on the stand-in. Whatever went wrong and was not expected (a stray write, a leak) fails the test afterwards.
pub(crate) fn run(test: impl FnOnce(&Session)) {
    let failures = failures_of(test);
    assert!(failures.is_empty(), "{failures:#?}");
}

/// As [`run`], and hands over what went wrong and was not expected.
pub(crate) fn failures_of(test: impl FnOnce(&Session)) -> Vec<String> {
    if on_hardware() {
        println!("SKIP: a test of the emulator, not of the device");
        return Vec::new();
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(stand_in) = cuda_host::load() else { return Vec::new() };
    // What a test that panicked has left behind is not this one's.
    stand_in.take_failures();
    stand_in.set_schedule(Schedule::ALL[0]);
    stand_in.set_lazy_streams(false);
    let context = CudaContext::new(0).expect("the stand-in has one device");
    let modules = vec![context.load_module(Ptx::from_src("any image will do")).expect("a module")];
    let stream = context.default_stream();
    let session = Session { stand_in: Some(stand_in), context, stream, modules };
    test(&session);
    drop(session);
    stand_in.take_failures()
}

/// As [`run`], under each of the four schedules.
pub(crate) fn run_all(test: impl Fn(&Session, Schedule)) {
    run(|session| {
        for schedule in Schedule::ALL {
            session.stand_in().set_schedule(schedule);
            test(session, schedule);
        }
    });
}

/// Runs the test of a kernel: under the four schedules, or once on the GPU, with kernels that NVRTC compiles for it or has compiled elsewhere
/// (`ROENTGEN_CUDA_IMAGES`).
pub(crate) fn check(test: impl Fn(&Session)) {
    if !on_hardware() {
        return run_all(|session, _| test(session));
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: only opens libraries.
    let driver = unsafe { sys::is_culib_present() };
    if !driver || CudaContext::device_count().unwrap_or(0) == 0 {
        assert!(!cuda_host::required(), "no CUDA device");
        println!("SKIP: no CUDA device");
        return;
    }
    let context = CudaContext::new(0).expect("a device");
    let (major, minor) = context.compute_capability().expect("a capability");
    let target = if major == 9 { "sm_90a".to_owned() } else { format!("sm_{major}{minor}") };
    let load = |(name, image): &(String, Vec<u8>)| {
        context.load_module(Ptx::from_binary(image.clone())).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let modules: Vec<_> = images(&target).iter().map(load).collect();
    if modules.is_empty() {
        assert!(!cuda_host::required(), "no NVRTC, and no images for {target} in {IMAGES}");
        println!("SKIP: no NVRTC, and no images for {target} in {IMAGES}");
        return;
    }
    let stream = context.default_stream();
    test(&Session { stand_in: None, context, stream, modules });
}

/// Folder of images of all sources, by names as `matmul-0123456789abcdef.sm_80.cubin`.
const IMAGES: &str = "ROENTGEN_CUDA_IMAGES";

/// Those of that folder for the device.
fn made_elsewhere(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = std::env::var_os(IMAGES).map(PathBuf::from);
    let files = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let named = files.map(|file| (file.file_name().to_string_lossy().into_owned(), file.path()));
    let wanted = named.filter(|(name, _)| name.ends_with(&format!(".{target}.cubin")));
    wanted.map(|(name, path)| (name, std::fs::read(path).expect("an image"))).collect()
}

/// All sources, compiled for the device once for all tests.
fn images(target: &str) -> &'static [(String, Vec<u8>)] {
    static COMPILED: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    COMPILED.get_or_init(|| {
        if nvrtc::load().is_none() {
            return made_elsewhere(target);
        }
        let compile = |source: PathBuf| {
            let name = source.file_name().expect("a file").to_string_lossy().into_owned();
            let image = nvrtc::compile(&name, target).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, image.cubin)
        };
        nvrtc::sources(&nvrtc::kernel_folder(), "cu").expect("cuda/").into_iter().map(compile).collect()
    })
}

impl Session {
    /// The controls of the stand-in, in tests that run on it.
    pub(crate) fn stand_in(&self) -> &'static StandIn {
        self.stand_in.expect("a test of the emulator")
    }

    pub(crate) fn function(&self, name: &str) -> CudaFunction {
        let found = self.modules.iter().find_map(|module| module.load_function(name).ok());
        found.unwrap_or_else(|| panic!("no kernel {name}"))
    }

    /// Whether this device has the kernel.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.modules.iter().any(|module| module.load_function(name).is_ok())
    }

    pub(crate) fn upload<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).expect("an upload")
    }

    /// Memory as it comes: filled with NaNs.
    pub(crate) fn empty<T: DeviceRepr>(&self, count: usize) -> CudaSlice<T> {
        // SAFETY: read only after a kernel has written it, or to see what it holds.
        unsafe { self.stream.alloc(count) }.expect("an allocation")
    }

    pub(crate) fn fresh(&self, count: usize) -> CudaSlice<f32> {
        self.empty(count)
    }

    pub(crate) fn download<T: DeviceRepr + Clone + Default>(&self, values: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(values).expect("a download")
    }

    /// Asserts that `attempt` ends with this error, whose explanation contains all of `texts`, and mends the context.
    pub(crate) fn fails<T>(&self, attempt: Result<T, DriverError>, code: &str, texts: &[&str]) {
        let error = attempt.err().unwrap_or_else(|| panic!("it succeeded; expected {code}"));
        assert_eq!(format!("{:?}", error.0), code);
        self.says(texts);
    }

    /// Asserts that one failure was reported, which contains all of `texts`.
    pub(crate) fn says(&self, texts: &[&str]) {
        let failures = self.stand_in().take_failures();
        let [failure] = &failures[..] else { panic!("expected one failure: {failures:#?}") };
        for text in texts {
            assert!(failure.contains(text), "`{text}` is not in: {failure}");
        }
    }
}

/// `blocks` blocks of `threads`, with so much shared memory.
pub(crate) fn shape(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

/// This program again, for tests named by `filter`, with more in its environment.
pub(crate) fn again(filter: &[&str], environment: &[(&str, String)]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(filter).args(["--test-threads=1", "--nocapture"]);
    for (name, value) in environment {
        command.env(name, value);
    }
    command.output().expect("this program runs")
}

/// Everything that a program wrote.
pub(crate) fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
