//! Compiles every CUDA kernel for machines without NVRTC: `cuda_images FOLDER TARGET…`, where a target is `sm_80`, `sm_90a`, …, or `compute_80` for
//! PTX. The folder goes beside the program as `cuda-images`, or into it (`ROENTGEN_EMBED_CUDA_IMAGES` when it is built).

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((folder, targets)) = args.split_first().filter(|(_, targets)| !targets.is_empty()) else {
        eprintln!("usage: cuda_images FOLDER TARGET…");
        return ExitCode::from(2);
    };
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    match engine::cuda::write_images(Path::new(folder), &targets) {
        Ok(names) => {
            println!("{} images in {folder}", names.len());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
