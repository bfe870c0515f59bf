//! Whether this machine has CUDA, what its devices are, and if not, why not.

use std::fmt;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};

use super::modules;

/// Oldest driver that has every entry point in use (`cuEventElapsedTime_v2`): CUDA 12.8, the 570 series.
const OLDEST_DRIVER: i32 = 12_080;

/// Oldest devices that have what kernels use (`cp.async`, products of bf16): Ampere.
const OLDEST_DEVICE: [u32; 2] = [8, 0];

/// Whether there is a GPU that kernels can run on. [`Display`](fmt::Display) says it in one line.
#[derive(Clone, Debug)]
pub enum Availability {
    /// No driver library.
    NoDriver,
    /// A driver from before the calls that are needed.
    OldDriver {
        /// Its CUDA version, major·1000 + minor·10.
        version: i32,
    },
    /// A driver that answers with an error.
    Failed(String),
    /// A driver without devices.
    NoDevice,
    /// Devices, all from before what kernels use.
    OldDevice {
        /// The first device's name.
        device: String,
        /// Its compute capability.
        capability: [u32; 2],
    },
    /// Devices that cannot allocate in the order of a stream, as some virtual ones.
    NoPools {
        /// The first device's name.
        device: String,
    },
    /// Devices, but nothing to make kernels for any of them with.
    NoKernels {
        /// The first device's name.
        device: String,
        /// The kind of machine code that it needs.
        target: String,
    },
    /// Devices, in the driver's order.
    Usable(Vec<DeviceFacts>),
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// The driver's number of it: `cuda:N`.
    pub ordinal: usize,
    /// Name, as the driver gives it.
    pub name: String,
    /// CUDA version of the driver, major·1000 + minor·10.
    pub driver: i32,
    /// Compute capability.
    pub capability: [u32; 2],
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Most shared memory of a block, bytes.
    pub shared_per_block: u32,
    /// L2 cache, bytes.
    pub l2: u32,
    /// Whether it allocates memory in the order of a stream.
    pub pools: bool,
    /// The processor in disguise, in tests.
    pub emulated: bool,
    /// Where its kernels come from.
    pub kernels: &'static str,
}

impl DeviceFacts {
    /// Machine code for it: `sm_80`; with the instructions that are Hopper's own, `sm_90a`.
    pub fn target(&self) -> String {
        let [major, minor] = self.capability;
        if major == 9 { format!("sm_{major}{minor}a") } else { format!("sm_{major}{minor}") }
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
        match self {
            Self::NoDriver => f.write_str("no driver: libcuda is not on the library path"),
            Self::OldDriver { version: found } => write!(
                f,
                "the driver offers CUDA {}; {} (the 570 series) or newer is needed",
                version(*found),
                version(OLDEST_DRIVER)
            ),
            Self::Failed(why) => write!(f, "the driver does not start: {why}"),
            Self::NoDevice => f.write_str("a driver, but no device"),
            Self::OldDevice { device, capability: [major, minor] } => write!(
                f,
                "{device} has compute capability {major}.{minor}; {}.{} (Ampere) or newer is needed",
                OLDEST_DEVICE[0], OLDEST_DEVICE[1]
            ),
            Self::NoPools { device } => {
                write!(
                    f,
                    "{device} has no memory pools (cuMemAllocAsync), which are needed; a virtual GPU may be set up to have them"
                )
            }
            Self::NoKernels { device, target } => write!(
                f,
                "{device}: no NVRTC, and no kernels for {target} in this build; install NVRTC of CUDA 13, or set {} to its folder",
                super::nvrtc::FOLDER
            ),
            Self::Usable(devices) => {
                let names: Vec<&str> = devices.iter().map(|d| d.name.as_str()).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// A driver's error as it stands in messages.
pub(super) fn text(error: DriverError) -> String {
    let name = error.error_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|_| format!("{:?}", error.0));
    match error.error_string() {
        Ok(what) => format!("{name} ({})", what.to_string_lossy()),
        Err(_) => name,
    }
}

/// The first function that a library by the driver's name lacks, though drivers of any age have it: calling it would be a panic of cudarc.
fn missing() -> Option<&'static str> {
    // SAFETY: asked for when the library is there.
    let library = unsafe { sys::culib() };
    ["cuDriverGetVersion", "cuInit", "cuGetErrorName", "cuGetErrorString"].into_iter().find(|name| {
        // SAFETY: only looked for, not called.
        unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err()
    })
}

/// Looks for the driver and its devices. Nothing of CUDA is touched before the first call, and nothing panics: cudarc does where a
/// library or a symbol is missing, so both are asked for first.
pub fn availability() -> Availability {
    // SAFETY: opens the driver library, as every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Availability::NoDriver;
    }
    if let Some(name) = missing() {
        return Availability::Failed(format!("its library has no {name}; is it a stub?"));
    }
    let mut driver = 0;
    // SAFETY: the place is this function's; the call may come before `cuInit`.
    if let Err(e) = unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result() {
        return Availability::Failed(text(e));
    }
    if driver < OLDEST_DRIVER {
        return Availability::OldDriver { version: driver };
    }
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Availability::NoDevice,
        Err(e) => return Availability::Failed(text(e)),
        Ok(()) => {}
    }
    match devices(driver) {
        Err(e) => Availability::Failed(text(e)),
        Ok(all) => usable(all),
    }
}

/// The devices that will do; if none does, what is wrong with the first.
fn usable(all: Vec<DeviceFacts>) -> Availability {
    let why_not = |d: &DeviceFacts| {
        let device = d.name.clone();
        if d.capability < OLDEST_DEVICE {
            Some(Availability::OldDevice { device, capability: d.capability })
        } else if !d.pools {
            Some(Availability::NoPools { device })
        } else if d.kernels.is_empty() {
            Some(Availability::NoKernels { device, target: d.target() })
        } else {
            None
        }
    };
    let first = all.first().and_then(why_not);
    let usable: Vec<_> = all.into_iter().filter(|d| why_not(d).is_none()).collect();
    match first {
        Some(why) if usable.is_empty() => why,
        None if usable.is_empty() => Availability::NoDevice,
        _ => Availability::Usable(usable),
    }
}

fn devices(driver: i32) -> Result<Vec<DeviceFacts>, DriverError> {
    let count = result::device::get_count()?;
    (0..count).map(|ordinal| facts(ordinal, driver)).collect()
}

fn facts(ordinal: i32, driver: i32) -> Result<DeviceFacts, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: a device of the driver's.
    let attribute = |what| unsafe { result::device::get_attribute(device, what) }.map(|v| v.max(0) as u32);
    let name = result::device::get_name(device)?;
    let mut facts = DeviceFacts {
        ordinal: ordinal as usize,
        emulated: name.starts_with("CPU emulation"),
        name,
        driver,
        capability: [
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: a device of the driver's.
        memory: unsafe { result::device::total_mem(device) }? as u64,
        shared_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        pools: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
        kernels: "",
    };
    facts.kernels = modules::origin(&facts);
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ordinal: usize, capability: [u32; 2], pools: bool, kernels: &'static str) -> DeviceFacts {
        DeviceFacts {
            ordinal,
            name: format!("GPU {ordinal}"),
            driver: 13_000,
            capability,
            multiprocessors: 40,
            memory: 16 << 30,
            shared_per_block: 64 << 10,
            l2: 4 << 20,
            pools,
            emulated: false,
            kernels,
        }
    }

    #[test]
    fn devices_that_will_not_do_are_passed_over_and_the_first_is_told() {
        let (old, no_pools) = (device(0, [7, 5], true, "NVRTC"), device(1, [8, 6], false, "NVRTC"));
        let (bare, good) = (device(2, [9, 0], true, ""), device(3, [8, 0], true, "NVRTC"));
        let text =
            |devices: &[&DeviceFacts]| usable(devices.iter().map(|&d| d.clone()).collect()).to_string();
        assert!(
            text(&[&old, &bare]).contains("GPU 0 has compute capability 7.5; 8.0"),
            "{}",
            text(&[&old, &bare])
        );
        assert!(text(&[&no_pools]).contains("GPU 1 has no memory pools"));
        assert!(text(&[&bare]).contains("GPU 2: no NVRTC, and no kernels for sm_90a"));
        assert_eq!(text(&[]), "a driver, but no device");
        let Availability::Usable(found) = usable(vec![old, no_pools, bare, good]) else {
            panic!("there is one")
        };
        assert_eq!(found.iter().map(|d| d.ordinal).collect::<Vec<_>>(), [3]);
    }
}
