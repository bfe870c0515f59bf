//! Options that every command takes.

use std::str::FromStr;

use anyhow::{Result, bail};
use engine::Device;
use engine::cpu::{isa, threads};

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Where to compute: auto, cpu, wgpu[:NAME] or cuda[:N]; NAME is a part of a GPU's name
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
    /// The GPU whose name has this in it; without it, the first.
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
    /// The device, with its number of threads set. To be called once, before anything is computed.
    pub(crate) fn device(&self) -> Result<Device> {
        if let Some(problem) = isa::requested_error() {
            bail!(problem);
        }
        if let Some(n) = self.threads {
            threads::set_threads(usize::from(n));
        }
        match &self.device {
            DeviceChoice::Wgpu(name) => Ok(Device::wgpu(name.as_deref())?),
            DeviceChoice::Cuda(ordinal) => Ok(Device::cuda(*ordinal)?),
            _ => Ok(Device::cpu()),
        }
    }
}
