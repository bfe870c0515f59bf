//! Kernels compiled for a device by NVRTC: that they do, and with how many registers.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::{fs, io, ptr};

use cudarc::nvrtc::sys;

/// The folder with the kernels' sources: `ROENTGEN_KERNELS`, or the one this was built from.
pub fn kernel_folder() -> PathBuf {
    std::env::var_os("ROENTGEN_KERNELS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), PathBuf::from)
}

/// What the assembler says of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of registers that were spilled, stores and loads.
    pub spills: u32,
    /// Bytes of a thread's stack frame.
    pub stack: u32,
    /// Bytes of shared memory that a block has without asking.
    pub shared: u32,
}

/// A compiled source.
pub struct Image {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// Per kernel.
    pub usage: BTreeMap<String, Usage>,
}

/// Loads NVRTC if it is not yet: from the folder that `ROENTGEN_NVRTC` names, else from the library path. `None`, with a line that says so,
/// if there is none.
///
/// # Panics
/// If it is missing and `REQUIRE_NVRTC=1`.
pub fn load() -> Option<()> {
    if let Some(folder) = std::env::var_os("ROENTGEN_NVRTC") {
        // The second opens the first by its name, which is only found because it is loaded.
        for path in ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"].map(|name| Path::new(&folder).join(name))
        {
            // SAFETY: NVIDIA's libraries, whose initialisers are their own affair; loaded for good.
            let library = unsafe { libloading::Library::new(&path) }
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            std::mem::forget(library);
        }
    }
    // SAFETY: only opens libraries.
    if unsafe { sys::is_culib_present() } {
        return Some(());
    }
    let why = "no NVRTC: install nvidia-cuda-nvrtc==13.0.88 and point ROENTGEN_NVRTC to its nvidia/cu13/lib";
    assert!(std::env::var_os("REQUIRE_NVRTC").is_none_or(|value| value != "1"), "{why}");
    println!("SKIP: {why}");
    None
}

/// Compiles `cuda/<source>` to machine code of `target` (`sm_80`, `sm_90a`). Call [`load`] first.
pub fn compile(source: &str, target: &str) -> Result<Image, String> {
    compile_with(source, target, &[])
}

/// As [`compile`], with more options of the compiler.
pub fn compile_with(source: &str, target: &str, options: &[&str]) -> Result<Image, String> {
    let folder = kernel_folder();
    let read = |path: PathBuf| -> Result<CString, String> {
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        CString::new(text).map_err(|_| format!("{} contains a zero", path.display()))
    };
    let text = read(folder.join(source))?;
    let mut names = Vec::new();
    let mut headers = Vec::new();
    for path in sources(&folder.join("common"), "cuh").map_err(|e| format!("cuda/common: {e}"))? {
        let name = format!("common/{}", path.file_name().unwrap_or_default().to_string_lossy());
        names.push(CString::new(name).map_err(|_| "a header's name contains a zero".to_owned())?);
        headers.push(read(path)?);
    }
    let program = Program::new(source, &text, &names, &headers)?;
    program.compile(target, options)
}

/// Files of `folder` with this extension, sorted.
pub fn sources(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram and destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

impl Program {
    fn new(name: &str, text: &CString, names: &[CString], headers: &[CString]) -> Result<Self, String> {
        let name_text = CString::new(name).map_err(|_| "the source's name contains a zero".to_owned())?;
        let names: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
        let headers: Vec<*const c_char> = headers.iter().map(|h| h.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: all strings end with zero and outlive the call, which copies them; both lists are of one length.
        let result = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                text.as_ptr(),
                name_text.as_ptr(),
                names.len() as i32,
                headers.as_ptr(),
                names.as_ptr(),
            )
        };
        if result == sys::nvrtcResult::NVRTC_SUCCESS {
            Ok(Self(program))
        } else {
            Err(format!("{name}: {result:?}"))
        }
    }

    fn compile(&self, target: &str, more: &[&str]) -> Result<Image, String> {
        let target_option = format!("--gpu-architecture={target}");
        let options = [target_option.as_str(), "--std=c++17", "--ptxas-options=-v"].into_iter();
        let options: Vec<CString> =
            options.chain(more.iter().copied()).map(|o| CString::new(o).expect("no zero")).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: the options outlive the call.
        let result = unsafe { sys::nvrtcCompileProgram(self.0, pointers.len() as i32, pointers.as_ptr()) };
        let log = self.log();
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(format!("{target}: {result:?}\n{log}"));
        }
        let mut bytes = 0;
        // SAFETY: the program is compiled; the buffer gets the size that was asked for.
        let cubin = unsafe {
            sys::nvrtcGetCUBINSize(self.0, &raw mut bytes);
            let mut cubin = vec![0_u8; bytes];
            sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast());
            cubin
        };
        Ok(Image { cubin, usage: parse_usage(&log) })
    }

    fn log(&self) -> String {
        let mut bytes = 0;
        // SAFETY: the buffer gets the size that was asked for.
        let log = unsafe {
            sys::nvrtcGetProgramLogSize(self.0, &raw mut bytes);
            let mut log = vec![0_u8; bytes];
            sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast());
            log
        };
        String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned()
    }
}

/// Instructions of each kernel in machine code: the sections `.text.NAME` of the ELF file that NVRTC made.
pub fn code(cubin: &[u8]) -> BTreeMap<String, &[u8]> {
    let word = |at: usize, bytes: usize| {
        let field = &cubin[at..at + bytes];
        field.iter().rev().fold(0_usize, |word, &byte| word << 8 | usize::from(byte))
    };
    // ELF64: e_shoff, e_shentsize, e_shnum, e_shstrndx; of a section sh_name, sh_offset, sh_size.
    let (table, each, count, names) = (word(40, 8), word(58, 2), word(60, 2), word(62, 2));
    let section = |i: usize| &cubin[word(table + i * each + 24, 8)..][..word(table + i * each + 32, 8)];
    let name = |i: usize| {
        let text = &section(names)[word(table + i * each, 4)..];
        String::from_utf8_lossy(text.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
    };
    // Sections without bytes in the file (SHT_NOBITS) are no code.
    let texts = (0..count).filter(|&i| word(table + i * each + 4, 4) != 8);
    texts.filter_map(|i| Some((name(i).strip_prefix(".text.")?.to_owned(), section(i)))).collect()
}

/// Reads the assembler's report: `Compiling entry function 'NAME' for 'sm_80'`, then `N bytes stack frame, N bytes spill stores, N bytes
/// spill loads`, then `Used N registers, …`.
fn parse_usage(log: &str) -> BTreeMap<String, Usage> {
    let number_before = |line: &str, word: &str| -> Option<u32> {
        line.split_once(word)?.0.split([' ', ',']).rfind(|part| !part.is_empty())?.parse().ok()
    };
    let mut all = BTreeMap::new();
    let mut name = None;
    for line in log.lines() {
        if let Some(rest) = line.split_once("entry function '") {
            name = rest.1.split('\'').next().map(str::to_owned);
        }
        let Some(name) = &name else { continue };
        let usage: &mut Usage = all.entry(name.clone()).or_default();
        if let Some(stack) = number_before(line, " bytes stack frame") {
            usage.stack = stack;
            usage.spills = number_before(line, " bytes spill stores").unwrap_or(0)
                + number_before(line, " bytes spill loads").unwrap_or(0);
        }
        if let Some(registers) = number_before(line, " registers") {
            usage.registers = registers;
            usage.shared = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    all
}
