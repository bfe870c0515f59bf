//! Options that every command takes.

use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use bench::machine::Fingerprint;
use engine::Device;
use engine::cpu::{isa, threads};
use engine::cuda::{Availability, availability};
use engine::wgpu::adapters;

use crate::loading;

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Where to compute: auto, cpu, wgpu[:NAME] or cuda[:N]; NAME is a GPU's name or a part of it (`devices` lists them), auto takes the first GPU
    #[arg(long, global = true, value_name = "DEVICE", default_value = "auto", help_heading = "General")]
    device: DeviceChoice,
    /// Processor threads [default: all cores]
    #[arg(
        long,
        global = true,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=MOST_THREADS),
        help_heading = "General"
    )]
    pub(crate) threads: Option<u16>,
    /// Print the result as JSON
    #[arg(long, global = true, help_heading = "General")]
    pub(crate) json: bool,
    /// Say more on stderr; twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "General")]
    pub(crate) verbose: u8,
}

/// No machine that this runs on has more.
const MOST_THREADS: i64 = 1024;

/// Where to compute.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DeviceChoice {
    Auto,
    Cpu,
    /// The GPU of this name, or whose name has this in it; without it, the first.
    Wgpu(Option<String>),
    /// The NVIDIA GPU that the driver gives this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let wrong = || "expected auto, cpu, wgpu[:NAME] or cuda[:N]".to_owned();
        match (name, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("wgpu", name) => Ok(Self::Wgpu(name.map(str::to_owned))),
            ("cuda", None) => Ok(Self::Cuda(0)),
            ("cuda", Some(n)) => n.parse::<u8>().map(|n| Self::Cuda(n.into())).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl Global {
    /// Sets the processor's number of threads and checks the options: for commands that compute nothing.
    pub(crate) fn processor(&self) -> Result<()> {
        if let Some(problem) = isa::requested_error() {
            bail!(problem);
        }
        if let Some(n) = self.threads {
            threads::set_threads(usize::from(n));
        }
        Ok(())
    }

    /// As [`Self::processor`], for `command`, which computes on the processor alone: an error where a GPU is asked for.
    pub(crate) fn processor_alone(&self, command: &str) -> Result<()> {
        if let Some(gpu) = self.gpu() {
            bail!(
                "{command} computes on the processor, whatever GPU there is: give --device cpu, or none, instead of {gpu}"
            );
        }
        self.processor()
    }

    /// The device, with the processor's number of threads set. To be called once, before anything is computed.
    pub(crate) fn device(&self) -> Result<Device> {
        self.processor()?;
        let device = match &self.device {
            DeviceChoice::Wgpu(name) => said(Device::wgpu(name.as_deref())?),
            DeviceChoice::Cuda(ordinal) => said(Device::cuda(*ordinal)?),
            DeviceChoice::Auto => automatic()?,
            DeviceChoice::Cpu => Device::cpu(),
        };
        let _ = OPENED.set(Fingerprint::of(&device));
        Ok(device)
    }

    /// What asks for the same GPU again, as a value of `--device`; nothing where none was named.
    pub(crate) fn gpu(&self) -> Option<String> {
        match &self.device {
            DeviceChoice::Wgpu(None) => Some("wgpu".into()),
            DeviceChoice::Wgpu(Some(name)) => Some(format!("wgpu:{name}")),
            DeviceChoice::Cuda(ordinal) => Some(format!("cuda:{ordinal}")),
            DeviceChoice::Auto | DeviceChoice::Cpu => None,
        }
    }
}

static OPENED: OnceLock<Fingerprint> = OnceLock::new();

/// Of the device that the command computes on, once it is open. The device itself must end with the command.
pub(crate) fn opened() -> Option<&'static Fingerprint> {
    OPENED.get()
}

/// The device, told to those who asked to hear more; what it does while a model is loaded is shown.
fn said(device: Device) -> Device {
    tracing::info!("computing on {}", device.description());
    device.listen(loading::shower());
    device
}

/// The first GPU that is none of the processor's disguises, by CUDA if it can be had so; else the processor.
fn automatic() -> Result<Device> {
    // Loading drivers takes longer than many a report: not where the system has no GPU.
    if cfg!(target_os = "linux")
        && !["/dev/dri", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd"].iter().any(|path| Path::new(path).exists())
    {
        return Ok(Device::cpu());
    }
    if let Availability::Usable(devices) = availability()
        && let Some(gpu) = devices.into_iter().find(|gpu| !gpu.emulated)
    {
        let device = Device::cuda(gpu.ordinal).with_context(|| {
            format!("--device auto chose the GPU {}; --device cpu does without it", gpu.name)
        })?;
        return Ok(said(device));
    }
    let Some(gpu) = adapters().into_iter().find(|adapter| !adapter.software) else {
        return Ok(Device::cpu());
    };
    let device = Device::wgpu(gpu.argument.strip_prefix("wgpu:"))
        .with_context(|| format!("--device auto chose the GPU {}; --device cpu does without it", gpu.name))?;
    Ok(said(device))
}
