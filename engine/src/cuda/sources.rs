//! The kernels' sources, which are part of the program.

/// `cuda/<name>.cu`.
macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../cuda/", $name, ".cu")))),*]
    };
}

/// `common/<name>.cuh`, by the name that kernels include.
macro_rules! headers {
    ($($name:literal),* $(,)?) => {
        &[$((concat!("common/", $name, ".cuh"), include_str!(concat!("../../../cuda/common/", $name, ".cuh")))),*]
    };
}

/// Name and text of every source.
pub(super) const SOURCES: &[(&str, &str)] = sources![
    "adamw",
    "adamw8bit",
    "add_rms_norm",
    "affine",
    "argmax",
    "attention",
    "attention_grad",
    "binary",
    "burst",
    "cast",
    "concat",
    "cross_entropy",
    "cross_entropy_grad",
    "dequantize_blockwise",
    "dropout",
    "embedding",
    "embedding_grad",
    "gated_silu",
    "gated_silu_grad",
    "gelu",
    "gelu_grad",
    "layer_norm",
    "layer_norm_grad",
    "linear_nf4",
    "linear_nf4_grad",
    "linear_nf4_group",
    "lora",
    "matmul",
    "matmul_wgmma",
    "quantize_blockwise",
    "reduce",
    "rms_norm",
    "rms_norm_grad",
    "rope",
    "rope_write",
    "scatter_rows",
    "sgd",
    "top_k",
    "unary",
    "upload",
    "write",
];

/// What they may include. `host.cuh` is the emulator's.
pub(super) const HEADERS: &[(&str, &str)] = headers![
    "convert",
    "device",
    "dropout",
    "elementwise",
    "flash",
    "gelu",
    "layout",
    "nf4",
    "nf4_decode",
    "norm_grad",
    "optimiser",
    "prelude",
    "quantised",
    "reduce",
    "rows",
    "simt",
    "tile",
    "trigonometry",
    "types",
    "warpgroup",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &str, extension: &str) -> Vec<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../cuda").join(folder);
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_source_is_part_of_the_program() {
        assert_eq!(names("", "cu"), SOURCES.iter().map(|s| s.0).collect::<Vec<_>>());
        let mut headers = names("common", "cuh");
        headers.retain(|name| name != "host");
        let have: Vec<&str> =
            HEADERS.iter().map(|h| h.0["common/".len()..].trim_end_matches(".cuh")).collect();
        assert_eq!(headers, have);
    }
}
