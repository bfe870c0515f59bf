//! Kernels as the device runs them. An image of a source (machine code for one target, or PTX) comes from the first of
//!
//! 1. machine code that was built into this program, or lies in the folder that `ROENTGEN_CUDA_IMAGES` names or in `cuda-images` beside it;
//! 2. NVRTC, if this machine has it: once, then from a cache on disk;
//! 3. PTX from the places of 1, which the driver compiles.
//!
//! that is there and that the driver loads: one older than the compiler of an image may refuse it, and a compiler older than the device does not
//! know it.
//!
//! Names of images hold a hash of the source, its headers and the compiler's options, so one of another version is never taken.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{env, fs, io};

use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;

use super::availability::{DeviceFacts, text};
use super::nvrtc::{self, Refused};
use super::sources::{HEADERS, SOURCES};
use crate::{Error, Result};

/// Folder of images that were made elsewhere.
const IMAGES: &str = "ROENTGEN_CUDA_IMAGES";
/// What PTX is made for: the oldest devices that kernels run on.
const PTX: &str = "compute_80";
/// Options of the compiler.
const OPTIONS: [&str; 1] = ["--std=c++17"];

include!(concat!(env!("OUT_DIR"), "/cuda_images.rs"));

/// FNV-1a over all that an image depends on, but its target and the compiler's version.
fn hash(source: &str) -> u64 {
    let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
    let texts = [source].into_iter().chain(headers).chain(OPTIONS);
    texts
        .flat_map(|text| text.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// File name of an image: `matmul-0123456789abcdef.sm_80.cubin`.
fn file_name(source: &str, text: &str, target: &str) -> String {
    let kind = if target.starts_with("sm_") { "cubin" } else { "ptx" };
    format!("{source}-{:016x}.{target}.{kind}", hash(text))
}

/// An image that was made before: part of the program, or a file of the two folders.
fn prepared(name: &str) -> Option<Vec<u8>> {
    if let Some((_, image)) = EMBEDDED.iter().find(|(embedded, _)| *embedded == name) {
        return Some(image.to_vec());
    }
    let beside = || Some(env::current_exe().ok()?.parent()?.join("cuda-images"));
    let folders = [env::var_os(IMAGES).map(PathBuf::from), beside()];
    folders.into_iter().flatten().find_map(|folder| fs::read(folder.join(name)).ok())
}

/// `$XDG_CACHE_HOME/roentgen/cuda`, or `~/.cache/roentgen/cuda`, and in it a folder for each version of the compiler.
fn cache_folder(version: [i32; 2]) -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("roentgen/cuda").join(format!("nvrtc-{}.{}", version[0], version[1])))
}

/// Writes beside and renames, so that no other process reads half a file.
fn store(folder: &Path, name: &str, image: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!("{name}.{}", std::process::id()));
    fs::write(&beside, image)?;
    fs::rename(&beside, folder.join(name))
}

/// Machine code of a source for `target`, from the cache unless it is to be made `anew`, or by the compiler; where the cache cannot be written,
/// for this process alone.
fn compiled(
    source: &str,
    code: &str,
    target: &str,
    folder: Option<&Path>,
    anew: bool,
) -> Result<Vec<u8>, Refused> {
    let name = file_name(source, code, target);
    if let Some(image) = folder.filter(|_| !anew).and_then(|folder| fs::read(folder.join(&name)).ok()) {
        return Ok(image);
    }
    let image = nvrtc::compile(&format!("{source}.cu"), code, HEADERS, target, &OPTIONS)?;
    if let Some(folder) = folder
        && let Err(e) = store(folder, &name, &image)
    {
        tracing::debug!("compiled CUDA kernels are not kept: {}: {e}", folder.display());
    }
    Ok(image)
}

/// Ways to an image, in the order in which they are tried.
struct Ways<'a> {
    /// What was made before, by file name.
    prepared: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    /// The compiler of this machine, if it has one, by way of its cache or anew; a source that it refuses is an error, a device that it does not know
    /// is for the next way.
    compile: Option<&'a dyn Fn(bool) -> Result<Vec<u8>, Refused>>,
}

impl Ways<'_> {
    /// The first image that `load` takes: machine code for `target`, the compiler's, PTX, which ends with a zero.
    fn load<T>(
        &self,
        source: &str,
        code: &str,
        target: &str,
        load: impl Fn(Vec<u8>) -> Result<T, String>,
    ) -> Result<T, String> {
        let (mut refused, mut unknown) = (Vec::new(), None);
        let mut take = |from: &str, image| load(image).map_err(|e| refused.push(format!("{from}: {e}"))).ok();
        if let Some(image) = (self.prepared)(&file_name(source, code, target))
            && let Some(loaded) = take("machine code that came with the program", image)
        {
            return Ok(loaded);
        }
        if let Some(compile) = self.compile {
            // A file of the cache may be broken.
            for anew in [false, true] {
                match compile(anew) {
                    Ok(image) => {
                        if let Some(loaded) = take("NVRTC's", image) {
                            return Ok(loaded);
                        }
                    }
                    Err(Refused::Source(why)) => return Err(why),
                    Err(old @ Refused::Target(..)) => {
                        unknown = Some(old.to_string());
                        break;
                    }
                }
            }
        }
        if let Some(mut ptx) = (self.prepared)(&file_name(source, code, PTX)) {
            if ptx.last() != Some(&0) {
                ptx.push(0);
            }
            if let Some(loaded) = take("PTX that came with the program", ptx) {
                return Ok(loaded);
            }
        }
        if refused.is_empty() {
            let compiler = unknown.unwrap_or_else(|| "no NVRTC".into());
            return Err(format!("{compiler}, and no image for {target}; set {} or {IMAGES}", nvrtc::FOLDER));
        }
        refused.splice(..0, unknown);
        Err(format!("the driver refuses what there is ({}); a newer driver may take it", refused.join("; ")))
    }
}

/// The image of a source for a device, as `load` takes it.
fn image<T>(
    facts: &DeviceFacts,
    source: &str,
    load: impl Fn(Vec<u8>) -> Result<T, String>,
) -> Result<T, String> {
    let (_, code) = SOURCES.iter().find(|(name, _)| *name == source).ok_or("no such source")?;
    let target = facts.target();
    if facts.emulated {
        // Its driver has the kernels, compiled for the host. It looks into machine code whether it is what it should be, but needs none.
        return load(prepared(&file_name(source, code, &target)).unwrap_or(vec![0]));
    }
    let version = nvrtc::version();
    let compile = |anew| compiled(source, code, &target, version.and_then(cache_folder).as_deref(), anew);
    let compile: Option<&dyn Fn(bool) -> _> = if version.is_some() { Some(&compile) } else { None };
    Ways { prepared: &prepared, compile }.load(source, code, &target, load)
}

/// Where the kernels of a device come from; empty if from nowhere.
pub(super) fn origin(facts: &DeviceFacts) -> &'static str {
    let all =
        |target: &str| SOURCES.iter().all(|(name, code)| prepared(&file_name(name, code, target)).is_some());
    if facts.emulated {
        "the emulator"
    } else if all(&facts.target()) {
        "machine code that came with the program"
    } else if nvrtc::version().is_some() {
        "NVRTC"
    } else if all(PTX) {
        "PTX that came with the program"
    } else {
        ""
    }
}

/// Compiles every kernel for each of `targets` (`sm_80`, `sm_90a`, `compute_80` for PTX) and writes the images to `folder`, for machines without
/// NVRTC. Returns the files' names.
///
/// # Errors
/// If this machine has no NVRTC, a source does not compile, or the folder cannot be written.
pub fn write_images(folder: &Path, targets: &[&str]) -> Result<Vec<String>> {
    if nvrtc::version().is_none() {
        return Err(Error::Device(format!("cuda: no NVRTC; set {} to its folder", nvrtc::FOLDER)));
    }
    let mut names = Vec::new();
    for target in targets {
        for (source, code) in SOURCES {
            let file = format!("{source}.cu");
            let image = nvrtc::compile(&file, code, HEADERS, target, &OPTIONS)
                .map_err(|e| Error::Device(e.to_string()))?;
            let name = file_name(source, code, target);
            store(folder, &name, &image).map_err(|source| Error::File {
                path: folder.join(&name),
                action: "write".into(),
                source,
            })?;
            names.push(name);
        }
    }
    Ok(names)
}

/// A loaded kernel.
pub(super) struct Function {
    pub(super) function: CudaFunction,
    pub(super) name: String,
    pub(super) parameters: Vec<Parameter>,
}

/// Where a parameter lies in the block that a launch carries.
pub(super) struct Parameter {
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

impl Function {
    /// Words of the block of all parameters.
    pub(super) fn words(&self) -> usize {
        self.parameters.last().map_or(0, |p| (p.offset + p.bytes).div_ceil(8))
    }

    fn load(facts: &DeviceFacts, module: &Arc<CudaModule>, entry: &str) -> Result<Self, String> {
        let function = module.load_function(entry).map_err(text)?;
        let parameter = |index| {
            let (mut offset, mut bytes) = (0, 0);
            // SAFETY: the function is loaded, and both places are this closure's.
            let result = unsafe {
                sys::cuFuncGetParamInfo(function.cu_function(), index, &raw mut offset, &raw mut bytes)
            };
            (result == sys::CUresult::CUDA_SUCCESS).then_some(Parameter { offset, bytes })
        };
        let parameters = (0..).map_while(parameter).collect();
        // What a launch may ask for; above 48 KiB the driver wants it said before.
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, facts.shared_per_block as i32).map_err(text)?;
        Ok(Self { function, name: entry.to_owned(), parameters })
    }
}

/// Modules and kernels loaded so far.
pub(super) struct Modules {
    context: Arc<CudaContext>,
    facts: DeviceFacts,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<String, Arc<Function>>,
}

impl Modules {
    pub(super) fn new(context: Arc<CudaContext>, facts: DeviceFacts) -> Self {
        Self { context, facts, loaded: Mutex::default() }
    }

    /// The kernel `entry` of `cuda/<source>.cu`.
    pub(super) fn function(&self, source: &'static str, entry: &str) -> Result<Arc<Function>> {
        let mut loaded = self.loaded.lock().unwrap();
        if let Some(function) = loaded.functions.get(entry) {
            return Ok(function.clone());
        }
        let fail = |e: String| Error::Device(format!("cuda: kernel {entry} of {source}.cu: {e}"));
        // This may be the thread's first call.
        self.context.bind_to_thread().map_err(|e| fail(text(e)))?;
        let module = if let Some(module) = loaded.modules.get(source) {
            module.clone()
        } else {
            let load = |image| self.context.load_module(Ptx::from_binary(image)).map_err(text);
            let module = image(&self.facts, source, load).map_err(fail)?;
            loaded.modules.insert(source, module.clone());
            module
        };
        let function = Arc::new(Function::load(&self.facts, &module, entry).map_err(fail)?);
        loaded.functions.insert(entry.to_owned(), function.clone());
        Ok(function)
    }

    /// The kernels that were asked for so far.
    pub(super) fn names(&self) -> Vec<String> {
        self.loaded.lock().unwrap().functions.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_with_source_headers_and_target() {
        let name = file_name("gelu", "text", "sm_80");
        assert!(name.starts_with("gelu-") && name.ends_with(".sm_80.cubin"), "{name}");
        assert_ne!(name, file_name("gelu", "text ", "sm_80"));
        assert!(file_name("gelu", "text", PTX).ends_with(".compute_80.ptx"));
    }

    #[test]
    fn ways_to_an_image_have_an_order() {
        let names = [file_name("gelu", "text", "sm_90a"), file_name("gelu", "text", PTX)];
        // What there is, and what the driver does not take.
        let take =
            |machine_code: bool, compiler: Option<Result<[&str; 2], bool>>, ptx: bool, broken: &[&str]| {
                let there = [machine_code, ptx];
                let prepared = |name: &str| {
                    let i = names.iter().position(|n| n == name).expect("a name of this source and target");
                    there[i].then(|| ["machine code", "PTX"][i].into())
                };
                // A source that is refused, or a device that is not known.
                let refusal = |old| {
                    if old {
                        Refused::Target("12.0".into(), "sm_90a".into())
                    } else {
                        Refused::Source("line 1: error".into())
                    }
                };
                let compile = |anew| compiler.unwrap().map(|c| c[usize::from(anew)].into()).map_err(refusal);
                let compile: Option<&dyn Fn(bool) -> _> =
                    if compiler.is_some() { Some(&compile) } else { None };
                Ways { prepared: &prepared, compile }.load("gelu", "text", "sm_90a", |image| {
                    let image = String::from_utf8(image).unwrap();
                    if broken.contains(&image.as_str()) { Err("invalid image".to_owned()) } else { Ok(image) }
                })
            };
        let compiler = Some(Ok(["cached", "compiled"]));
        assert_eq!(take(true, compiler, true, &[]).unwrap(), "machine code");
        assert_eq!(take(false, compiler, true, &[]).unwrap(), "cached");
        assert_eq!(take(false, None, true, &[]).unwrap(), "PTX\0", "drivers want a final zero");
        assert_eq!(take(false, Some(Err(false)), true, &[]).unwrap_err(), "line 1: error");
        assert_eq!(
            take(false, Some(Err(true)), true, &[]).unwrap(),
            "PTX\0",
            "a compiler older than the device"
        );
        let text = take(false, Some(Err(true)), false, &[]).unwrap_err();
        assert!(text.contains("NVRTC 12.0 does not know sm_90a") && text.contains(IMAGES), "{text}");
        let text = take(false, Some(Err(true)), true, &["PTX\0"]).unwrap_err();
        assert!(text.contains("does not know sm_90a; PTX that came"), "{text}");
        let text = take(false, None, false, &[]).unwrap_err();
        assert!(text.contains("sm_90a") && text.contains(nvrtc::FOLDER) && text.contains(IMAGES), "{text}");
        // What does not load is passed over, and the last words name all of it.
        assert_eq!(take(true, compiler, true, &["machine code"]).unwrap(), "cached");
        assert_eq!(take(true, compiler, true, &["machine code", "cached"]).unwrap(), "compiled");
        assert_eq!(take(true, None, true, &["machine code"]).unwrap(), "PTX\0");
        let text = take(true, None, true, &["machine code", "PTX\0"]).unwrap_err();
        assert!(text.contains("machine code that came") && text.contains("PTX that came"), "{text}");
    }

    /// Of a build with `ROENTGEN_EMBED_CUDA_IMAGES`: each is one of this source's, by hash, and for a target that devices ask for.
    #[test]
    fn embedded_images_are_of_these_sources() {
        for (name, image) in EMBEDDED {
            let of_a_source =
                |target: &str| SOURCES.iter().any(|(source, code)| file_name(source, code, target) == *name);
            let target = name.split('.').nth(1).unwrap();
            assert!(of_a_source(target), "{name} is of another version: write the images anew");
            assert_eq!(image.starts_with(b"\x7fELF"), target.starts_with("sm_"), "{name}");
        }
        println!(
            "{} embedded images, {} bytes",
            EMBEDDED.len(),
            EMBEDDED.iter().map(|e| e.1.len()).sum::<usize>()
        );
    }

    #[test]
    fn a_source_is_compiled_once() {
        if nvrtc::version().is_none() {
            let required = env::var_os("REQUIRE_NVRTC").is_some_and(|v| v == "1");
            assert!(!required, "no NVRTC");
            println!(
                "SKIP: no NVRTC: install nvidia-cuda-nvrtc==13.0.88 and point {} to its library folder",
                nvrtc::FOLDER
            );
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (source, code) = SOURCES.iter().find(|s| s.0 == "gelu").unwrap();
        let make = |code: &str, anew| compiled(source, code, "sm_80", Some(folder.path()), anew);
        let first = make(code, false).unwrap();
        assert!(first.starts_with(b"\x7fELF"), "machine code is an ELF file");
        // What lies in the cache is what is taken.
        let file = folder.path().join(file_name(source, code, "sm_80"));
        assert_eq!(fs::read(&file).unwrap(), first);
        fs::write(&file, "kept").unwrap();
        assert_eq!(make(code, false).unwrap(), b"kept");
        assert_eq!(make(code, true).unwrap(), first);
        assert_eq!(fs::read(&file).unwrap(), first);
        // Another text is another file; what is wrong with it is said with its line.
        let text = make("extern \"C\" __global__ void f() { nonsense; }", false).unwrap_err().to_string();
        assert!(text.contains("gelu.cu(1)") && text.contains("nonsense"), "{text}");
        let unknown = nvrtc::compile("gelu.cu", code, HEADERS, "sm_990", &OPTIONS).unwrap_err();
        assert!(matches!(unknown, Refused::Target(..)), "{unknown}");
        let ptx = nvrtc::compile("gelu.cu", code, HEADERS, PTX, &OPTIONS).unwrap();
        assert!(String::from_utf8_lossy(&ptx).contains(".entry gelu_f32"));
    }
}
