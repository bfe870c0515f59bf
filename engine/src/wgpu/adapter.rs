//! Which GPU, and what it can do.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use ::wgpu;

use crate::{Error, Result};

/// Overrides which limits are asked for: `default` stays within WebGPU's defaults, as a browser would.
const LIMITS: &str = "ROENTGEN_WGPU_LIMITS";

/// What an adapter is and offers.
#[derive(Clone, Debug)]
pub struct AdapterFacts {
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
    /// Timestamps inside passes, for profiling.
    pub timestamps: bool,
    /// Largest binding of a storage buffer, bytes.
    pub max_binding: u64,
    /// Largest buffer, bytes.
    pub max_buffer: u64,
    /// Workgroup memory, bytes.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
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
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
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

/// WebGPU's default limits, raised to what the adapter has where large tensors gain from it.
fn wanted_limits(adapter: &wgpu::Adapter) -> Result<wgpu::Limits> {
    let mut limits = wgpu::Limits::default();
    match std::env::var(LIMITS).as_deref() {
        Ok("default") => {}
        Err(_) | Ok("") => {
            let has = adapter.limits();
            limits.max_buffer_size = has.max_buffer_size;
            limits.max_storage_buffer_binding_size = has.max_storage_buffer_binding_size;
        }
        Ok(other) => return Err(Error::Device(format!("wgpu: {LIMITS}={other}: unknown; use default"))),
    }
    Ok(limits)
}

/// Opens the first adapter whose name contains `name` (any case).
pub(super) fn open(name: Option<&str>) -> Result<Opened> {
    let found = all();
    let wanted = name.unwrap_or_default().to_lowercase();
    let names: Vec<&str> = found.iter().map(|(_, f)| f.name.as_str()).collect();
    let Some(at) = names.iter().position(|n| n.to_lowercase().contains(&wanted)) else {
        return Err(Error::Device(if found.is_empty() {
            "wgpu: no adapter; a Vulkan, Metal or DirectX 12 driver is needed".into()
        } else {
            format!("wgpu: no adapter named {wanted:?}; there are {}", names.join(", "))
        }));
    };
    let (adapter, facts) = &found[at];
    let limits = wanted_limits(adapter)?;
    let optional = wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("roentgen"),
        required_features: adapter.features() & optional,
        required_limits: limits.clone(),
        ..Default::default()
    };
    let (device, queue) = block_on(adapter.request_device(&descriptor))
        .map_err(|e| Error::Device(format!("wgpu: {} refuses to open: {e}", facts.name)))?;
    Ok(Opened { facts: facts.clone(), info: adapter.get_info(), device, queue, limits })
}
