//! Takes CUDA machine code into the library: every file of the folder that `ROENTGEN_EMBED_CUDA_IMAGES` names, as
//! `engine::cuda::write_images` made them. Without it there is none, and kernels are compiled where they run.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

const FOLDER: &str = "ROENTGEN_EMBED_CUDA_IMAGES";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={FOLDER}");
    let mut files = Vec::new();
    if let Some(folder) = env::var_os(FOLDER).filter(|f| !f.is_empty()).map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", folder.display());
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{FOLDER}={}: {e}", folder.display()));
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()));
        files.sort();
    }
    let mut text = String::from("/// Images that are part of the program: file name and contents.\n");
    text.push_str("const EMBEDDED: &[(&str, &[u8])] = &[");
    for path in files {
        let path = fs::canonicalize(path).expect("a file that was just listed");
        let name = path.file_name().expect("a file's path").to_string_lossy().into_owned();
        write!(text, "({name:?}, include_bytes!({:?})),", path.to_string_lossy())
            .expect("a string takes all");
    }
    text.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("cuda_images.rs");
    fs::write(out, text).expect("a file in OUT_DIR");
}
