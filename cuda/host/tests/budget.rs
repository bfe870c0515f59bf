//! Every kernel compiles to `sm_80` and `sm_90a`, spills nothing, and needs no more registers than the table says.
//!
//! `ROENTGEN_WRITE_BUDGET=1` writes the table anew; its diff shows what a change costs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use cuda_host::nvrtc;

const TARGETS: [&str; 2] = ["sm_80", "sm_90a"];

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
            assert!(!image.usage.is_empty(), "{name}: no kernel, or a report of another form");
            for (kernel, usage) in image.usage {
                if usage.spills > 0 || usage.stack > 0 {
                    faults.push(format!(
                        "{kernel} on {target}: {} bytes spilled, stack frame of {}",
                        usage.spills, usage.stack
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
