//! `devices`: what this machine offers, and what this build can use of it.

use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Result;
use engine::cpu::isa::{Isa, isa};
use engine::cpu::threads;
use serde::Serialize;

use crate::global::Global;
use crate::output::{self, Align};
use crate::system;

/// Show what there is to compute on
#[derive(Debug, clap::Args)]
pub(crate) struct DevicesArgs {}

/// Backends that the design names and this build does not have.
const ABSENT: [&str; 2] = ["wgpu", "cuda"];

#[derive(Serialize)]
struct Devices {
    cpu: Cpu,
    not_in_this_build: [&'static str; 2],
}

#[derive(Serialize)]
struct Cpu {
    name: Option<String>,
    architecture: &'static str,
    cores: Option<usize>,
    hardware_threads: usize,
    threads_in_use: usize,
    paths: Vec<&'static str>,
    path_in_use: &'static str,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
}

pub(crate) fn run(_: &DevicesArgs, global: &Global) -> Result<ExitCode> {
    global.device()?;
    let (name, cores) = system::processor();
    let memory = system::memory();
    let devices = Devices {
        cpu: Cpu {
            name,
            architecture: std::env::consts::ARCH,
            cores,
            hardware_threads: available_parallelism().map_or(1, usize::from),
            threads_in_use: threads::threads(),
            paths: Isa::offered().map(Isa::name).collect(),
            path_in_use: isa().name(),
            memory_bytes: memory.map(|m| m.0),
            memory_available_bytes: memory.map(|m| m.1),
        },
        not_in_this_build: ABSENT,
    };
    if global.json {
        output::json(&devices)?;
    } else {
        output::text(&devices.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Devices {
    fn text(&self) -> String {
        let cpu = &self.cpu;
        let cores = cpu.cores.map_or_else(String::new, |n| format!("{n} cores, "));
        let memory = cpu.memory_bytes.zip(cpu.memory_available_bytes);
        let mut rows = vec![
            vec![
                "cpu".into(),
                format!("{} ({})", cpu.name.as_deref().unwrap_or("unknown"), cpu.architecture),
            ],
            vec![
                "  threads".into(),
                format!("{cores}{} hardware threads; {} in use", cpu.hardware_threads, cpu.threads_in_use),
            ],
            vec![
                "  kernels".into(),
                format!("{}; in use: {} (ROENTGEN_CPU chooses)", cpu.paths.join(", "), cpu.path_in_use),
            ],
        ];
        if let Some((all, available)) = memory {
            rows.push(vec![
                "  memory".into(),
                format!("{}, {} available", output::bytes(all), output::bytes(available)),
            ]);
        }
        for name in self.not_in_this_build {
            rows.push(vec![name.into(), "not in this build".into()]);
        }
        output::table(&[("", Align::Left), ("", Align::Left)], &rows)
    }
}
