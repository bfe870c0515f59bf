//! `devices`: what this machine offers, and what this build can use of it.

use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Result;
use engine::cpu::isa::{Isa, isa};
use engine::cpu::threads;
use engine::cuda::{Availability, DeviceFacts, availability};
use engine::wgpu::{AdapterFacts, adapters};
use serde::Serialize;

use crate::global::Global;
use crate::output::{self, Align};
use crate::system;

/// Show what there is to compute on
#[derive(Debug, clap::Args)]
pub(crate) struct DevicesArgs {}

#[derive(Serialize)]
struct Devices {
    cpu: Cpu,
    wgpu: Vec<Gpu>,
    cuda: Vec<CudaGpu>,
    /// Why there is no CUDA device.
    no_cuda_because: Option<String>,
}

#[derive(Serialize)]
struct CudaGpu {
    device: String,
    name: String,
    driver_cuda: String,
    compute_capability: String,
    multiprocessors: u32,
    memory_bytes: u64,
    shared_memory_per_block_bytes: u32,
    l2_cache_bytes: u32,
    emulated: bool,
    kernels_from: &'static str,
}

impl From<DeviceFacts> for CudaGpu {
    fn from(f: DeviceFacts) -> Self {
        Self {
            device: format!("cuda:{}", f.ordinal),
            name: f.name,
            driver_cuda: format!("{}.{}", f.driver / 1000, f.driver % 1000 / 10),
            compute_capability: format!("{}.{}", f.capability[0], f.capability[1]),
            multiprocessors: f.multiprocessors,
            memory_bytes: f.memory,
            shared_memory_per_block_bytes: f.shared_per_block,
            l2_cache_bytes: f.l2,
            emulated: f.emulated,
            kernels_from: f.kernels,
        }
    }
}

#[derive(Serialize)]
struct Gpu {
    device: String,
    name: String,
    driver: String,
    api: &'static str,
    kind: &'static str,
    subgroup_sizes: [u32; 2],
    f16: bool,
    timestamps: bool,
    max_binding_bytes: u64,
    max_buffer_bytes: u64,
    workgroup_memory_bytes: u32,
    workgroup_invocations: u32,
    variants: Vec<String>,
    slower_because: Vec<String>,
}

impl From<AdapterFacts> for Gpu {
    fn from(f: AdapterFacts) -> Self {
        let mut slower_because = Vec::new();
        if f.software {
            slower_because.push("it is the processor playing a GPU: for checking, not for work".into());
        }
        if f.max_binding < 1 << 30 {
            let most = output::bytes(f.max_binding);
            slower_because.push(format!("weights above {most} are bound in parts"));
        }
        if !f.subgroup_variants() {
            let why = match f.subgroup {
                [_, 0] => "it has no subgroups".into(),
                [least, most] if least != most => format!("its subgroups are of {least} to {most}"),
                [_, size] => format!("its subgroups are of {size}"),
            };
            slower_because.push(format!("{why}: sums are made in workgroup memory"));
        }
        if !f.pipeline_cache {
            slower_because.push("its API keeps no kernels from run to run: each run compiles them, unless the driver keeps its own".into());
        }
        if !f.timestamps {
            slower_because
                .push("it has no timestamps: profiles have the times of calls, not the device's".into());
        }
        Self {
            variants: f.variants(),
            device: f.argument,
            name: f.name,
            driver: f.driver,
            api: f.api,
            kind: f.kind,
            subgroup_sizes: f.subgroup,
            f16: f.f16,
            timestamps: f.timestamps,
            max_binding_bytes: f.max_binding,
            max_buffer_bytes: f.max_buffer,
            workgroup_memory_bytes: f.workgroup_memory,
            workgroup_invocations: f.invocations,
            slower_because,
        }
    }
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
    global.processor()?;
    let (name, cores) = system::processor();
    let memory = system::memory();
    let (cuda, no_cuda_because) = match availability() {
        Availability::Usable(devices) => (devices.into_iter().map(CudaGpu::from).collect(), None),
        other => (Vec::new(), Some(other.to_string())),
    };
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
        wgpu: adapters().into_iter().map(Gpu::from).collect(),
        cuda,
        no_cuda_because,
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
        for gpu in &self.wgpu {
            rows.push(vec![
                "wgpu".into(),
                format!("{} ({}, {}; {})", gpu.name, gpu.kind, gpu.api, gpu.driver),
            ]);
            rows.push(vec!["  asked for by".into(), format!("--device \"{}\"", gpu.device)]);
            let [least, most] = gpu.subgroup_sizes;
            let subgroups = if most == 0 {
                "none".into()
            } else if least == most {
                most.to_string()
            } else {
                format!("{least} to {most}")
            };
            let yes = |has: bool| if has { "yes" } else { "no" };
            rows.push(vec![
                "  offers".into(),
                format!(
                    "subgroups of {subgroups}; f16 {}; timestamps {}; bindings to {}, buffers to {}; workgroups of {} with {}",
                    yes(gpu.f16),
                    yes(gpu.timestamps),
                    output::bytes(gpu.max_binding_bytes),
                    output::bytes(gpu.max_buffer_bytes),
                    gpu.workgroup_invocations,
                    output::bytes(gpu.workgroup_memory_bytes.into())
                ),
            ]);
            rows.push(vec!["  kernels".into(), gpu.variants.join("; ")]);
            rows.extend(gpu.slower_because.iter().map(|why| vec!["  slower".into(), why.clone()]));
        }
        if self.wgpu.is_empty() {
            rows.push(vec![
                "wgpu".into(),
                "no adapter: a Vulkan, Metal or DirectX 12 driver is needed".into(),
            ]);
        }
        for gpu in &self.cuda {
            rows.push(vec![
                gpu.device.clone(),
                format!(
                    "{} (compute capability {}; CUDA {})",
                    gpu.name, gpu.compute_capability, gpu.driver_cuda
                ),
            ]);
            rows.push(vec![
                "  offers".into(),
                format!(
                    "{} multiprocessors; {} of memory, {} of L2; blocks with {} of shared memory; kernels from {}",
                    gpu.multiprocessors,
                    output::bytes(gpu.memory_bytes),
                    output::bytes(gpu.l2_cache_bytes.into()),
                    output::bytes(gpu.shared_memory_per_block_bytes.into()),
                    gpu.kernels_from
                ),
            ]);
        }
        if let Some(why) = &self.no_cuda_because {
            rows.push(vec!["cuda".into(), why.clone()]);
        }
        output::table(&[("", Align::Left), ("", Align::Left)], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gpu_lacks_is_said() {
        let facts = AdapterFacts {
            argument: "wgpu:Arc".into(),
            name: "Arc".into(),
            driver: String::new(),
            api: "vulkan",
            kind: "discrete",
            software: false,
            subgroup: [32; 2],
            f16: true,
            matrices: None,
            timestamps: true,
            pipeline_cache: true,
            max_binding: 1 << 31,
            max_buffer: 1 << 34,
            workgroup_memory: 32 << 10,
            invocations: 1024,
        };
        let why = |facts: &AdapterFacts| Gpu::from(facts.clone()).slower_because;
        assert!(why(&facts).is_empty());
        let worse =
            AdapterFacts { subgroup: [8, 32], timestamps: false, pipeline_cache: false, ..facts.clone() };
        let text = why(&worse).join("; ");
        for part in ["subgroups are of 8 to 32", "keeps no kernels", "no timestamps"] {
            assert!(text.contains(part), "{text}");
        }
        let text = why(&AdapterFacts { subgroup: [0; 2], max_binding: 1 << 27, ..facts }).join("; ");
        assert!(text.contains("no subgroups") && text.contains("bound in parts"), "{text}");
    }
}
