//! Compiles the emulator, the stand-in driver and every kernel of `cuda/` into `libcuda.so.1`, twice: plain, and with
//! `AddressSanitizer` and `UndefinedBehaviorSanitizer`. Without a C++ compiler nothing is built and the tests skip themselves.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;
use std::{env, fs, thread};

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    // A library with its own thread-local state, opened at run time: without this every access is a call.
    "-ftls-model=initial-exec",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-pthread",
];
const PLAIN: &[&str] = &["-O2"];
const SANITIZED: &[&str] = &[
    "-O1",
    "-g1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(stand_in)");
    println!("cargo::rustc-check-cfg=cfg(stand_in_sanitized)");
    println!("cargo::rerun-if-env-changed=CXX");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let cuda = here.parent().expect("the crate is in cuda/").to_owned();
    println!("cargo::rerun-if-changed={}", cuda.display());
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") || env::var("HOST") != env::var("TARGET") {
        return;
    }
    let Some(compiler) = compiler() else {
        println!(
            "cargo::warning=no C++ compiler (CXX, g++, c++): the CUDA kernels' tests will skip themselves"
        );
        return;
    };

    let mut sources = Vec::new();
    for (folder, extension) in [
        (here.join("src/emulator"), "cpp"),
        (here.join("src/driver"), "cpp"),
        (here.join("faults"), "cu"),
        (cuda.clone(), "cu"),
    ] {
        sources.extend(files(&folder, extension));
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let includes = [cuda.clone(), here.join("src")];
    let changed = modified(&here.join("build.rs"));
    let build = Build { compiler: &compiler, includes, sources: &sources, changed };
    build.library(&out.join("plain"), PLAIN);
    println!("cargo::rustc-cfg=stand_in");
    if has_sanitizers(&compiler, &out) {
        build.library(&out.join("sanitized"), SANITIZED);
        println!("cargo::rustc-cfg=stand_in_sanitized");
        for name in ["libasan.so", "libubsan.so"] {
            println!(
                "cargo::rustc-env=EMULATOR_{}={}",
                &name[3..name.len() - 3].to_uppercase(),
                library(&compiler, name)
            );
        }
    }
    println!("cargo::rustc-env=EMULATOR_FOLDER={}", out.display());
}

struct Build<'a> {
    compiler: &'a str,
    includes: [PathBuf; 2],
    sources: &'a [PathBuf],
    /// When this file changed last.
    changed: Option<SystemTime>,
}

impl Build<'_> {
    /// `folder/libcuda.so.1` from all sources.
    fn library(&self, folder: &Path, flags: &[&str]) {
        fs::create_dir_all(folder).expect("a folder in OUT_DIR");
        let objects: Vec<PathBuf> = self.sources.iter().map(|s| folder.join(object_name(s))).collect();
        let jobs: Vec<_> = self.sources.iter().zip(&objects).collect();
        let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_usize).max(1);
        thread::scope(|scope| {
            for worker in 0..workers {
                let jobs = &jobs;
                scope.spawn(move || {
                    for (source, object) in jobs.iter().skip(worker).step_by(workers) {
                        self.compile(source, object, flags);
                    }
                });
            }
        });
        let target = folder.join("libcuda.so.1");
        // cudarc asks for `libcuda.so` first: a library of that name that is loaded already is the one it gets, whatever else is
        // installed. The link is for LD_LIBRARY_PATH.
        run(Command::new(self.compiler)
            .args(FLAGS)
            .args(flags)
            .args(["-shared", "-Wl,-soname,libcuda.so", "-o"])
            .arg(&target)
            .args(&objects));
        let link = folder.join("libcuda.so");
        let _ = fs::remove_file(&link);
        fs::copy(&target, &link).expect("a second name for the library");
    }

    /// Does nothing if the object is newer than all it is made of, which the compiler has listed beside it: a change elsewhere in `cuda/`
    /// costs no compilation.
    fn compile(&self, source: &Path, object: &Path, flags: &[&str]) {
        let list = object.with_extension("d");
        let parts = fs::read_to_string(&list).unwrap_or_default().replace("\\\n", " ");
        let mut parts = parts.split_whitespace().skip(1).map(|part| modified(Path::new(part))).peekable();
        let fresh = |part: Option<SystemTime>| part.is_some() && part < modified(object);
        if parts.peek().is_some() && fresh(self.changed) && parts.all(fresh) {
            return;
        }
        let mut command = Command::new(self.compiler);
        command.args(FLAGS).args(flags);
        for include in &self.includes {
            command.arg("-I").arg(include);
        }
        command.arg("-MMD").arg("-MF").arg(&list);
        run(command.args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(object));
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn object_name(source: &Path) -> String {
    let part = |p: Option<&OsStr>| p.unwrap_or_default().to_string_lossy().into_owned();
    format!("{}-{}.o", part(source.parent().and_then(Path::file_name)), part(source.file_name()))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect();
    found.sort();
    found
}

fn compiler() -> Option<String> {
    let named = env::var("CXX").ok();
    let candidates = named.iter().map(String::as_str).chain(["g++", "c++", "clang++"]);
    candidates.into_iter().find(|name| works(Command::new(name).arg("--version"))).map(str::to_owned)
}

fn has_sanitizers(compiler: &str, out: &Path) -> bool {
    let source = out.join("probe.cpp");
    fs::write(&source, "int main() {}\n").expect("a file in OUT_DIR");
    works(Command::new(compiler).args(SANITIZED).arg(&source).arg("-o").arg(out.join("probe")))
        && Path::new(&library(compiler, "libasan.so")).is_absolute()
}

/// Where the compiler keeps a library of its own.
fn library(compiler: &str, name: &str) -> String {
    let output = Command::new(compiler).arg(format!("-print-file-name={name}")).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}");
}
