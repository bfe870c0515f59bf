//! NVIDIA's runtime compiler: CUDA sources to machine code or PTX, in this process.

use std::ffi::{CString, OsStr, c_char};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use cudarc::nvrtc::sys;

/// Folder of `libnvrtc.so`, where it is not on the library path.
pub(super) const FOLDER: &str = "ROENTGEN_NVRTC";

/// Opens the libraries of a folder, so that cudarc's search by name finds them loaded.
fn open_from(folder: &OsStr) {
    let Ok(entries) = std::fs::read_dir(Path::new(folder)) else { return };
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // The builtins first: the compiler opens them by name, which is only found because they are loaded.
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libnvrtc") && name.contains(".so") && !name.contains(".alt.")
    });
    found.sort_by_key(|path| !path.to_string_lossy().contains("builtins"));
    for path in found {
        // SAFETY: NVIDIA's libraries, whose initialisers are their own affair. They stay loaded.
        if let Ok(library) = unsafe { libloading::Library::new(&path) } {
            std::mem::forget(library);
        }
    }
}

/// Version of the compiler on this machine, if there is one: major, minor.
pub(super) fn version() -> Option<[i32; 2]> {
    static VERSION: OnceLock<Option<[i32; 2]>> = OnceLock::new();
    *VERSION.get_or_init(|| {
        if let Some(folder) = std::env::var_os(FOLDER) {
            open_from(&folder);
        }
        // SAFETY: opens the library.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let mut version = [0; 2];
        let [major, minor] = &mut version;
        // SAFETY: both places are this function's.
        let result = unsafe { sys::nvrtcVersion(major, minor) };
        (result == sys::nvrtcResult::NVRTC_SUCCESS).then_some(version)
    })
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram and destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

impl Program {
    /// A text that a getter of the program gives, with the getter of its size.
    fn text(
        &self,
        size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Vec<u8> {
        let mut bytes = 0;
        // SAFETY: the buffer gets the size that was asked for.
        unsafe {
            size(self.0, &raw mut bytes);
            let mut text = vec![0_u8; bytes];
            get(self.0, text.as_mut_ptr().cast());
            text
        }
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The compiler is older than the device: it has no such target.
    #[error("NVRTC {0} does not know {1}")]
    Target(String, String),
    /// The source's fault.
    #[error("{0}")]
    Source(String),
}

impl From<String> for Refused {
    fn from(text: String) -> Self {
        Self::Source(text)
    }
}

/// Compiles `text`, which may include `headers` (name and text), for `target`: `sm_90a` gives machine code, `compute_80` PTX (with a final
/// zero). Call [`version`] first; it must have given one.
pub(super) fn compile(
    name: &str,
    text: &str,
    headers: &[(&str, &str)],
    target: &str,
    options: &[&str],
) -> Result<Vec<u8>, Refused> {
    let string = |s: &str| CString::new(s).map_err(|_| format!("{name} contains a zero"));
    let (name_text, text) = (string(name)?, string(text)?);
    let names = headers.iter().map(|(n, _)| string(n)).collect::<Result<Vec<_>, _>>()?;
    let texts = headers.iter().map(|(_, t)| string(t)).collect::<Result<Vec<_>, _>>()?;
    let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
    let mut program = Program(ptr::null_mut());
    // SAFETY: all strings end with zero and outlive the call, which copies them; both lists are of one length.
    let result = unsafe {
        sys::nvrtcCreateProgram(
            &raw mut program.0,
            text.as_ptr(),
            name_text.as_ptr(),
            names.len() as i32,
            pointers(&texts).as_ptr(),
            pointers(&names).as_ptr(),
        )
    };
    if result != sys::nvrtcResult::NVRTC_SUCCESS {
        return Err(format!("NVRTC does not take {name}: {result:?}").into());
    }
    let architecture = format!("--gpu-architecture={target}");
    let options = [&*architecture].iter().chain(options).map(|o| string(o)).collect::<Result<Vec<_>, _>>()?;
    // SAFETY: the options outlive the call.
    let result =
        unsafe { sys::nvrtcCompileProgram(program.0, options.len() as i32, pointers(&options).as_ptr()) };
    // The other options are the same for every target.
    if result == sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION {
        let version = version().map_or_else(String::new, |[major, minor]| format!("{major}.{minor}"));
        return Err(Refused::Target(version, target.to_owned()));
    }
    if result != sys::nvrtcResult::NVRTC_SUCCESS {
        let log = program.text(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog);
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
        return Err(format!("NVRTC cannot compile {name} for {target}: {result:?}\n{log}").into());
    }
    Ok(if target.starts_with("sm_") {
        program.text(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
    } else {
        program.text(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)
    })
}
