//! Which GPU, and what it can do.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use ::wgpu;

use super::choice::{self, Choice};
use super::cooperative::Matrices;
use crate::{Error, Result};

/// Overrides what is asked for: `default` stays within WebGPU's default limits and takes no optional features that kernels
/// could use, as any browser has it.
const LIMITS: &str = "ROENTGEN_WGPU_LIMITS";

/// What an adapter is and offers.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct AdapterFacts {
    /// What asks for this one: a value of `--device`.
    pub argument: String,
    /// Its name, as the driver gives it.
    pub name: String,
    /// Name and version of the driver.
    pub driver: String,
    /// `vulkan`, `metal`, `dx12`.
    pub api: &'static str,
    /// Discrete, integrated, virtual, software.
    pub kind: &'static str,
    /// True if it is the processor in disguise.
    pub software: bool,
    /// Smallest and largest subgroup; 0 if it has none.
    pub subgroup: [u32; 2],
    /// f16 arithmetic.
    pub f16: bool,
    /// Cooperative matrices for which there are kernels.
    pub matrices: Option<Matrices>,
    /// Timestamps inside passes, for profiling.
    pub timestamps: bool,
    /// Whether what the driver makes of kernels can be kept for the next process.
    pub pipeline_cache: bool,
    /// Largest binding of a storage buffer, bytes.
    pub max_binding: u64,
    /// Largest buffer, bytes.
    pub max_buffer: u64,
    /// Workgroup memory, bytes.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
}

impl AdapterFacts {
    /// Whether kernels use subgroups. They are written for 4 to 128 invocations, of one number in a device: where it
    /// changes from kernel to kernel (Intel's), whole ones are not promised.
    pub fn subgroup_variants(&self) -> bool {
        let [least, most] = self.subgroup;
        least == most && (4..=128).contains(&least)
    }

    /// Which variants of the kernels run on it, in words.
    pub fn variants(&self) -> Vec<String> {
        let rows = if self.subgroup_variants() {
            format!("sums over rows and columns by subgroups of {}", self.subgroup[0])
        } else {
            "sums over rows and columns by workgroup memory".into()
        };
        let products = if self.software {
            "thin products cut along k below 4 workgroups".into()
        } else {
            "thin products cut along k below 128 workgroups".into()
        };
        let matrices = match self.matrices {
            None => "tiled products without cooperative matrices".into(),
            Some(matrices) if matrices.taken() => {
                format!("tiled products by cooperative matrices, {}, once a trial was right", matrices.name())
            }
            Some(matrices) => {
                format!("tiled products without cooperative matrices: no product takes {}", matrices.name())
            }
        };
        vec![rows, products, matrices]
    }
}

/// Runs a future that is ready at once, as wgpu's are outside browsers.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}

fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        descriptor.backends &= wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        wgpu::Instance::new(descriptor)
    })
}

fn facts(adapter: &wgpu::Adapter) -> AdapterFacts {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    AdapterFacts {
        argument: String::new(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        name: info.name,
        api: match info.backend {
            wgpu::Backend::Vulkan => "vulkan",
            wgpu::Backend::Metal => "metal",
            wgpu::Backend::Dx12 => "dx12",
            wgpu::Backend::Gl => "gl",
            wgpu::Backend::BrowserWebGpu => "webgpu",
            wgpu::Backend::Noop => "none",
        },
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        },
        software: info.device_type == wgpu::DeviceType::Cpu,
        subgroup: if features.contains(wgpu::Features::SUBGROUP) {
            [info.subgroup_min_size, info.subgroup_max_size]
        } else {
            [0, 0]
        },
        f16: features.contains(wgpu::Features::SHADER_F16),
        matrices: Matrices::of(adapter),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
        pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
    }
}

fn all() -> Vec<(wgpu::Adapter, AdapterFacts)> {
    let found = block_on(instance().enumerate_adapters(wgpu::Backends::all()));
    let mut found: Vec<_> = found.into_iter().map(|a| (facts(&a), a)).map(|(f, a)| (a, f)).collect();
    // Discrete first, the processor in disguise last.
    let order = ["discrete", "integrated", "virtual", "other", "software"];
    found.sort_by_key(|(_, f)| order.iter().position(|&kind| kind == f.kind));
    let names: Vec<String> = found.iter().map(|(_, f)| f.name.clone()).collect();
    for ((_, facts), argument) in found.iter_mut().zip(choice::arguments(&names)) {
        facts.argument = format!("wgpu:{argument}");
    }
    found
}

/// Every adapter of this machine, the one that is taken by default first.
pub fn adapters() -> Vec<AdapterFacts> {
    all().into_iter().map(|(_, facts)| facts).collect()
}

/// An open device.
pub(super) struct Opened {
    pub(super) facts: AdapterFacts,
    pub(super) info: wgpu::AdapterInfo,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
}

/// Whether only WebGPU's defaults may be asked for.
fn only_defaults() -> Result<bool> {
    match std::env::var(LIMITS).as_deref() {
        Ok("default") => Ok(true),
        Err(_) | Ok("") => Ok(false),
        Ok(other) => Err(Error::Device(format!("wgpu: {LIMITS}={other}: unknown; use default"))),
    }
}

/// Of an adapter that `has` these limits: WebGPU's defaults of what kernels use, raised to what it has where large tensors
/// gain from it; of all else (textures, what is drawn) no more than it has.
fn wanted_limits(has: &wgpu::Limits, only_defaults: bool) -> wgpu::Limits {
    let used = wgpu::Limits::default();
    let mut limits = wgpu::Limits {
        max_bind_groups: 1,
        max_bindings_per_bind_group: used.max_bindings_per_bind_group,
        max_dynamic_uniform_buffers_per_pipeline_layout: 1,
        max_storage_buffers_per_shader_stage: used.max_storage_buffers_per_shader_stage,
        max_uniform_buffers_per_shader_stage: used.max_uniform_buffers_per_shader_stage,
        max_uniform_buffer_binding_size: 16 << 10,
        max_storage_buffer_binding_size: used.max_storage_buffer_binding_size,
        max_buffer_size: used.max_buffer_size,
        min_uniform_buffer_offset_alignment: used.min_uniform_buffer_offset_alignment,
        min_storage_buffer_offset_alignment: used.min_storage_buffer_offset_alignment,
        max_compute_workgroup_storage_size: used.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: used.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: used.max_compute_workgroup_size_x,
        max_compute_workgroups_per_dimension: used.max_compute_workgroups_per_dimension,
        ..used.or_worse_values_from(has)
    };
    if !only_defaults {
        limits.max_buffer_size = has.max_buffer_size;
        limits.max_storage_buffer_binding_size = has.max_storage_buffer_binding_size;
    }
    limits
}

/// What tells the GPU behind an adapter from others: it may be there once for each API. Empty where the driver does not say.
fn card(info: &wgpu::AdapterInfo) -> String {
    match (info.device_pci_bus_id.as_str(), info.device) {
        ("", 0) => String::new(),
        ("", device) => format!("{:x}:{device:x}", info.vendor),
        (bus, _) => bus.to_owned(),
    }
}

/// Opens the adapter that `name` means, as [`choice::choose`] has it; without a name the first.
pub(super) fn open(name: Option<&str>) -> Result<Opened> {
    let found = all();
    if found.is_empty() {
        return Err(Error::Device("wgpu: no adapter; a Vulkan, Metal or DirectX 12 driver is needed".into()));
    }
    let choices: Vec<Choice> =
        found.iter().map(|(a, f)| Choice { name: f.name.clone(), card: card(&a.get_info()) }).collect();
    let at = choice::choose(&choices, name.unwrap_or_default())
        .map_err(|e| Error::Device(format!("wgpu: {e}")))?;
    let (adapter, facts) = &found[at];
    let limits = wanted_limits(&adapter.limits(), only_defaults()?);
    let mut facts = facts.clone();
    let mut optional = wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    if only_defaults()? {
        (facts.subgroup, facts.f16, facts.matrices) = ([0; 2], false, None);
    } else {
        optional |= wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
    }
    let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
    if facts.matrices.is_some_and(Matrices::taken) {
        optional |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        // SAFETY: the one experimental feature that is asked for is cooperative matrices. Their kernels load and store
        // whole matrices within workgroup arrays that they have written, whatever the size of subgroups, in uniform
        // control flow.
        experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("roentgen"),
        required_features: adapter.features() & optional,
        required_limits: limits.clone(),
        experimental_features,
        ..Default::default()
    };
    let (device, queue) = block_on(adapter.request_device(&descriptor))
        .map_err(|e| Error::Device(format!("wgpu: {} refuses to open: {e}", facts.name)))?;
    Ok(Opened { facts, info: adapter.get_info(), device, queue, limits })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An adapter that computes as WebGPU asks and draws worse.
    #[test]
    fn only_limits_of_computing_are_demanded() {
        let mut has = wgpu::Limits {
            max_buffer_size: 1 << 34,
            max_storage_buffer_binding_size: 1 << 31,
            max_texture_dimension_2d: 4096,
            max_color_attachments: 4,
            max_inter_stage_shader_variables: 15,
            max_uniform_buffer_binding_size: 16 << 10,
            min_storage_buffer_offset_alignment: 32,
            ..wgpu::Limits::default()
        };
        let wanted = wanted_limits(&has, false);
        assert!(wanted.check_limits(&has));
        assert_eq!((wanted.max_buffer_size, wanted.max_storage_buffer_binding_size), (1 << 34, 1 << 31));
        assert_eq!(wanted.max_storage_buffers_per_shader_stage, 8);
        let wanted = wanted_limits(&has, true);
        assert_eq!((wanted.max_buffer_size, wanted.max_storage_buffer_binding_size), (256 << 20, 128 << 20));
        // What kernels cannot do without is demanded.
        has.max_storage_buffers_per_shader_stage = 4;
        assert!(!wanted_limits(&has, false).check_limits(&has));
        (has.max_storage_buffers_per_shader_stage, has.min_storage_buffer_offset_alignment) = (8, 512);
        assert!(!wanted_limits(&has, false).check_limits(&has));
    }
}
