//! NVTX: ranges by name that NVIDIA's tools draw beside what the device does (Nsight Systems, compute-sanitizer).
//!
//! NVTX 3 is a header: a tool names its library in `NVTX_INJECTION64_PATH`, and a program that has ranges to tell opens it and calls
//! its `InitializeInjectionNvtx2` with a function that hands out tables of functions; the tool puts its own there. This is the
//! program's half, for the two functions that ranges of a thread need. Layouts and numbers: NVTX 3, `nvtxDetail/nvtxTypes.h`.

use std::ffi::{CStr, OsString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{env, mem, ptr};

use thiserror::Error;

/// Where tools name their library.
const LIBRARY: &str =
    if cfg!(target_pointer_width = "64") { "NVTX_INJECTION64_PATH" } else { "NVTX_INJECTION32_PATH" };

/// Functions of each module, with an unused one in front: `NvtxCallbackModule`. The first module is none.
const MODULES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
/// Most of them.
const MOST: usize = 16;
/// The module and the places of the two functions: `NvtxCallbackIdCore`.
const CORE: usize = 1;
const RANGE_PUSH_A: usize = 9;
const RANGE_POP: usize = 11;

/// Numbers of export tables, and of the version of NVTX.
const CALLBACKS: u32 = 1;
const VERSION_INFO: u32 = 3;
const VERSION: u32 = 3;

/// The functions; null until a tool puts one there.
static FUNCTIONS: [[AtomicPtr<c_void>; MOST]; MODULES.len()] =
    [const { [const { AtomicPtr::new(ptr::null_mut()) }; MOST] }; MODULES.len()];

/// Pointers to them, as tools take a table: they write where an entry points.
struct Tables([[*const AtomicPtr<c_void>; MOST + 1]; MODULES.len()]);

// SAFETY: addresses of what lives as long as the program and is atomic.
unsafe impl Send for Tables {}
// SAFETY: as above.
unsafe impl Sync for Tables {}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut tables = Tables([[ptr::null(); MOST + 1]; MODULES.len()]);
        for ((table, functions), &count) in tables.0.iter_mut().zip(&FUNCTIONS).zip(&MODULES) {
            for (entry, function) in table.iter_mut().zip(functions).take(count).skip(1) {
                *entry = ptr::from_ref(function);
            }
        }
        tables
    })
}

/// `NvtxExportTableCallbacks`
#[repr(C)]
struct Callbacks {
    bytes: usize,
    table: extern "C" fn(c_int, *mut *const *const AtomicPtr<c_void>, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`
#[repr(C)]
struct VersionInfo {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_tools_version: extern "C" fn(u32),
}

static OUR_CALLBACKS: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), table: hand_out };
static OUR_VERSION: VersionInfo =
    VersionInfo { bytes: size_of::<VersionInfo>(), version: VERSION, reserved: 0, set_tools_version };

extern "C" fn set_tools_version(_: u32) {}

extern "C" fn hand_out(
    module: c_int,
    table: *mut *const *const AtomicPtr<c_void>,
    count: *mut c_uint,
) -> c_int {
    let Ok(module) = usize::try_from(module) else { return 0 };
    if module == 0 || module >= MODULES.len() {
        return 0;
    }
    // SAFETY: the tool's places, or null.
    unsafe {
        if !table.is_null() {
            *table = tables().0[module].as_ptr();
        }
        if !count.is_null() {
            *count = MODULES[module] as c_uint;
        }
    }
    1
}

extern "C" fn export_table(number: u32) -> *const c_void {
    match number {
        CALLBACKS => (&raw const OUR_CALLBACKS).cast(),
        VERSION_INFO => (&raw const OUR_VERSION).cast(),
        _ => ptr::null(),
    }
}

/// Why there are no ranges though a tool asks for them.
#[derive(Debug, Error)]
#[error("{}={}: {why}; no NVTX ranges", LIBRARY, .path.display())]
pub struct NvtxError {
    path: PathBuf,
    why: String,
}

/// A tool that listens to ranges. One for the process; it stays loaded.
#[derive(Clone, Copy, Debug)]
pub struct Nvtx {
    push: Option<Push>,
    pop: Option<Pop>,
}

type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

impl Nvtx {
    /// The tool that the environment names; `None` if it names none.
    ///
    /// # Errors
    /// If its library cannot be opened, is no such library, or refuses.
    pub fn from_environment() -> Result<Option<Self>, NvtxError> {
        static OPENED: OnceLock<Result<Nvtx, String>> = OnceLock::new();
        let Some(path) = env::var_os(LIBRARY).filter(|path| !path.is_empty()) else { return Ok(None) };
        match OPENED.get_or_init(|| Self::open(&path)) {
            Ok(tool) => Ok(Some(*tool)),
            Err(why) => Err(NvtxError { path: path.into(), why: why.clone() }),
        }
    }

    fn open(path: &OsString) -> Result<Self, String> {
        type Initialize = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;
        // SAFETY: whoever set the variable wants this library's code in this process.
        let library = unsafe { libloading::Library::new(path) }.map_err(|e| e.to_string())?;
        // SAFETY: the name's type, by NVTX 3.
        let initialize = unsafe { library.get::<Initialize>(b"InitializeInjectionNvtx2\0") };
        let initialize = *initialize.map_err(|e| e.to_string())?;
        // Its functions may be called to the end.
        mem::forget(library);
        // SAFETY: the tool's entry point, called once, with what it takes.
        if unsafe { initialize(export_table) } == 0 {
            return Err("the tool's library does not start".into());
        }
        let function = |place: usize| FUNCTIONS[CORE][place].load(Ordering::Acquire);
        let (push, pop) = (function(RANGE_PUSH_A), function(RANGE_POP));
        // SAFETY: null, or functions of these types, by NVTX 3.
        Ok(unsafe {
            Self {
                push: mem::transmute::<*mut c_void, Option<Push>>(push),
                pop: mem::transmute::<*mut c_void, Option<Pop>>(pop),
            }
        })
    }

    /// Begins a range of this thread. Ranges nest.
    pub fn push(&self, name: &CStr) {
        if let Some(push) = self.push {
            // SAFETY: the tool's function; the text ends with zero and is read during the call.
            unsafe { push(name.as_ptr()) };
        }
    }

    /// Ends the range that this thread began last.
    pub fn pop(&self) {
        if let Some(pop) = self.pop {
            // SAFETY: the tool's function.
            unsafe { pop() };
        }
    }
}
