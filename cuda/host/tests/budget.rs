//! Every kernel compiles to `sm_80` and `sm_90a`, spills nothing, and needs no more registers than the table says; those for the matrix units use them.
//!
//! `ROENTGEN_WRITE_BUDGET=1` writes the table anew; its diff shows what a change costs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cuda_host::nvrtc;

const TARGETS: [&str; 2] = ["sm_80", "sm_90a"];

/// Sources whose kernels are for `sm_90a` alone.
const HOPPER: [&str; 1] = ["matmul_wgmma.cu"];

/// Kernel and target, and the registers a thread may use.
type Table = BTreeMap<(String, String), u32>;

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/budget.txt"))
}

fn read_table() -> Table {
    let text = fs::read_to_string(path()).expect("tests/budget.txt");
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| {
        let [kernel, target, registers] = row.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("row `{row}`")
        };
        (
            (kernel.to_owned(), target.to_owned()),
            registers.parse().unwrap_or_else(|e| panic!("row `{row}`: {e}")),
        )
    })
    .collect()
}

fn write_table(table: &Table) {
    let mut text = String::from(
        "# Registers per thread that NVRTC 13.0.88 gives each kernel; none may spill. Written by ROENTGEN_WRITE_BUDGET=1 (budget.rs).\n",
    );
    for ((kernel, target), registers) in table {
        let _ = writeln!(text, "{kernel:<32} {target:<7} {registers:>3}");
    }
    fs::write(path(), text).expect("tests/budget.txt");
}

#[test]
fn registers_and_spills() {
    if nvrtc::load().is_none() {
        return;
    }
    let mut found = Table::new();
    let mut faults = Vec::new();
    for source in nvrtc::sources(&nvrtc::kernel_folder(), "cu").expect("cuda/") {
        let name = source.file_name().expect("a file").to_string_lossy().into_owned();
        for target in TARGETS {
            let image = nvrtc::compile(&name, target).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(image.cubin.starts_with(b"\x7fELF"), "{name}: no machine code for {target}");
            // Hopper's own kernels are not there for others.
            let none = HOPPER.contains(&&*name) && target != "sm_90a";
            assert_eq!(
                image.usage.is_empty(),
                none,
                "{name} on {target}: no kernel, or a report of another form"
            );
            for (kernel, usage) in image.usage {
                if usage.spills > 0 || usage.stack > 0 {
                    faults.push(format!(
                        "{kernel} on {target}: {} bytes spilled, stack frame of {}",
                        usage.spills, usage.stack
                    ));
                }
                if usage.shared > 0 {
                    faults.push(format!(
                        "{kernel} on {target}: {} bytes of static shared memory",
                        usage.shared
                    ));
                }
                found.insert((kernel, target.to_owned()), usage.registers);
            }
        }
    }
    if std::env::var_os("ROENTGEN_WRITE_BUDGET").is_some_and(|value| value == "1") {
        write_table(&found);
    }
    let table = read_table();
    for (key, registers) in &found {
        match table.get(key) {
            None => faults.push(format!("{key:?} is not in the table")),
            Some(budget) if registers > budget => {
                faults.push(format!("{key:?}: {registers} registers, budget {budget}"));
            }
            Some(_) => {}
        }
    }
    faults.extend(
        table
            .keys()
            .filter(|key| !found.contains_key(*key))
            .map(|key| format!("{key:?}: no such kernel any more")),
    );
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Sources, and beginnings of the names of those of their kernels that have bits to keep: of another kernel (`rope_write` those of `rope`, the
/// group's those of one weight), of another rung, or of the processor.
const SAME_BITS: [(&str, &str); 8] = [
    ("rope.cu", "rope_"),
    ("rope_write.cu", "rope_write_"),
    ("rms_norm.cu", "rms_norm_"),
    ("add_rms_norm.cu", "add_rms_norm_"),
    ("dequantize_blockwise.cu", "dequantize_blockwise_"),
    ("adamw.cu", "adamw_"),
    ("linear_nf4.cu", "linear_nf4_decode_"),
    ("linear_nf4_group.cu", "linear_nf4_group_decode_"),
];

/// Where a compiler may make one rounding of two it does so in one kernel and not in the next. In these it has no choice: they are the same
/// instructions if it may not.
#[test]
fn no_rounding_is_left_to_the_compiler() {
    if nvrtc::load().is_none() {
        return;
    }
    let mut faults = Vec::new();
    for (source, start) in SAME_BITS {
        for target in TARGETS {
            let compile = |option: &str| {
                nvrtc::compile_with(source, target, &[option])
                    .unwrap_or_else(|e| panic!("{source}: {e}"))
                    .cubin
            };
            let (free, bound) = (compile("--fmad=true"), compile("--fmad=false"));
            let (free, bound) = (nvrtc::code(&free), nvrtc::code(&bound));
            assert!(free.keys().any(|kernel| kernel.starts_with(start)), "{source}: no {start}");
            assert!(free.keys().eq(bound.keys()));
            let differ =
                free.iter().filter(|(kernel, code)| kernel.starts_with(start) && bound[*kernel] != **code);
            faults.extend(differ.map(|(kernel, _)| format!("{kernel} on {target}")));
        }
    }
    assert!(faults.is_empty(), "contracted: {faults:#?}");
}

/// Beginnings of kernels' names, and instructions that they must hold: products on the matrix units, fragments from shared memory, copies
/// that nobody waits for.
const MATRIX_UNITS: [(&str, &[&str]); 12] = [
    ("matmul_wgmma_", &["HGMMA", "LDGSTS", "FENCE"]),
    ("matmul_wide_", &["HGMMA", "LDGSTS", "FENCE"]),
    ("matmul_mma_", &["HMMA", "LDSM", "LDGSTS"]),
    ("matmul_large_", &["HMMA", "LDSM", "LDGSTS"]),
    ("attention_flash_", &["HMMA", "LDSM", "LDGSTS"]),
    ("linear_nf4_gemm_", &["HMMA", "LDSM", "LDGSTS"]),
    ("linear_nf4_large_", &["HMMA", "LDSM", "LDGSTS"]),
    ("linear_nf4_grad_mma_", &["HMMA", "LDSM", "LDGSTS"]),
    ("linear_nf4_grad_large_", &["HMMA", "LDSM", "LDGSTS"]),
    ("linear_nf4_decode_", &["HMMA"]),
    ("linear_nf4_group_decode_", &["HMMA"]),
    ("lora_outer_bf16", &["HMMA", "LDSM"]),
];
const MATRIX_SOURCES: [&str; 8] = [
    "matmul.cu",
    "matmul_wgmma.cu",
    "attention.cu",
    "attention_grad.cu",
    "linear_nf4.cu",
    "linear_nf4_grad.cu",
    "linear_nf4_group.cu",
    "lora.cu",
];

/// Instructions of each kernel in nvdisasm's listing: their names up to the first dot.
fn instructions(listing: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut kernel = None;
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
            kernel = Some(name.to_owned());
        }
        // `/*0a50*/ @!P0 LDGSTS.E.BYPASS.128 [R3], …`
        let Some((_, text)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) else { continue };
        let word = text.split_whitespace().find(|word| !word.starts_with('@'));
        if let (Some(kernel), Some(word)) = (&kernel, word) {
            let name = word.split('.').next().unwrap_or_default();
            found.entry(kernel.clone()).or_default().insert(name.to_owned());
        }
    }
    found
}

#[test]
fn instructions_of_the_matrix_units() {
    if nvrtc::load().is_none() {
        return;
    }
    let Some(tool) = std::env::var_os("ROENTGEN_NVDISASM") else {
        assert!(std::env::var_os("REQUIRE_NVRTC").is_none_or(|value| value != "1"), "no nvdisasm");
        println!(
            "SKIP: no nvdisasm: install nvidia-cuda-nvdisasm==13.2.86 and point ROENTGEN_NVDISASM to its program"
        );
        return;
    };
    let image_file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels.cubin");
    let mut faults = Vec::new();
    let mut unseen: BTreeSet<&str> = MATRIX_UNITS.iter().map(|(kernel, _)| *kernel).collect();
    for source in MATRIX_SOURCES {
        for target in TARGETS {
            let image = nvrtc::compile(source, target).unwrap_or_else(|e| panic!("{source}: {e}"));
            fs::write(&image_file, image.cubin).expect("a file in the target folder");
            let listing = Command::new(&tool).arg("-c").arg(&image_file).output();
            let listing = listing.unwrap_or_else(|e| panic!("{}: {e}", tool.display()));
            assert!(listing.status.success(), "{source}: {}", String::from_utf8_lossy(&listing.stderr));
            for (kernel, held) in instructions(&String::from_utf8_lossy(&listing.stdout)) {
                for local in ["LDL", "STL"] {
                    if held.contains(local) {
                        faults.push(format!("{kernel} on {target} holds {local}"));
                    }
                }
                for (start, wanted) in MATRIX_UNITS.iter().filter(|(start, _)| kernel.starts_with(start)) {
                    unseen.remove(start);
                    for missing in wanted.iter().filter(|name| !held.contains(**name)) {
                        faults.push(format!("{kernel} on {target} lacks {missing}"));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(unseen.is_empty(), "no kernel begins with {unseen:?}");
}
