//! Which machine a measurement belongs to.

use std::fs;

use engine::Device;
use engine::cpu::{isa, threads};
use serde::{Deserialize, Serialize};

/// What must be the same for ceilings to be taken over from an earlier run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Name of the processor, or of the architecture where the system gives none; of a GPU, its name and driver.
    pub cpu: String,
    /// Family, model, stepping, where known.
    pub revision: String,
    /// Best instruction-set path; of a GPU the backend's name.
    pub isa: String,
    /// Hash of all instruction-set flags.
    pub flags: String,
    /// Threads in use; 0 of a GPU.
    pub threads: usize,
    /// Caches as `L1 Data 48K`, in the system's order.
    pub caches: Vec<String>,
    /// Release of the operating system's kernel.
    pub kernel: String,
}

impl Fingerprint {
    /// Of the machine that this runs on.
    pub fn here() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::from_texts(&info, &kernel, caches())
    }

    /// Of a device of the machine that this runs on.
    pub fn of(device: &Device) -> Self {
        let here = Self::here();
        if *device == Device::cpu() {
            return here;
        }
        Self {
            cpu: device.description(),
            revision: "?".into(),
            isa: device.name().into(),
            flags: String::new(),
            threads: 0,
            caches: Vec::new(),
            kernel: here.kernel,
        }
    }

    /// Whether it is a GPU's.
    pub fn gpu(&self) -> bool {
        self.threads == 0
    }

    fn from_texts(cpuinfo: &str, kernel: &str, caches: Vec<String>) -> Self {
        let value = |key: &str| {
            cpuinfo.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key).then(|| value.trim().to_owned())
            })
        };
        let part = |key: &str| value(key).unwrap_or_else(|| "?".into());
        Self {
            cpu: value("model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            revision: format!("{}/{}/{}", part("cpu family"), part("model"), part("stepping")),
            isa: isa::Isa::detect().name().into(),
            flags: format!(
                "{:016x}",
                fnv1a(value("flags").or(value("Features")).unwrap_or_default().as_bytes())
            ),
            threads: threads::threads(),
            caches,
            kernel: kernel.trim().to_owned(),
        }
    }

    /// Bytes of the largest cache; where the system does not say 32 MiB, of a GPU 64 MiB (an H100 has 50).
    pub fn last_cache(&self) -> usize {
        let bytes = |text: &String| {
            let size = text.rsplit(' ').next()?;
            let (digits, unit) =
                size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
            let shift = match unit {
                "K" => 10,
                "M" => 20,
                "" => 0,
                _ => return None,
            };
            digits.parse::<usize>().ok()?.checked_mul(1 << shift)
        };
        let unknown = if self.gpu() { 64 << 20 } else { 32 << 20 };
        self.caches.iter().filter_map(bytes).max().unwrap_or(unknown)
    }

    /// Sixteen digits, for a file name.
    pub fn digest(&self) -> String {
        format!("{:016x}", fnv1a(format!("{self:?}").as_bytes()))
    }

    /// What differs from `other`, for people: `kernel: 6.1 and 6.8`; empty if nothing does.
    pub fn differences(&self, other: &Self) -> String {
        let pairs = [
            ("processor", self.cpu.clone(), other.cpu.clone()),
            ("revision", self.revision.clone(), other.revision.clone()),
            ("instruction set", self.isa.clone(), other.isa.clone()),
            ("flags", self.flags.clone(), other.flags.clone()),
            ("threads", self.threads.to_string(), other.threads.to_string()),
            ("caches", self.caches.join(", "), other.caches.join(", ")),
            ("kernel", self.kernel.clone(), other.kernel.clone()),
        ];
        let differing = pairs.into_iter().filter(|(_, a, b)| a != b);
        differing.map(|(what, a, b)| format!("{what}: {a} and {b}")).collect::<Vec<_>>().join("; ")
    }
}

/// Caches of the first processor.
fn caches() -> Vec<String> {
    let read = |i: usize, what: &str| {
        let text = fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{what}"));
        text.map(|t| t.trim().to_owned()).ok()
    };
    (0..8)
        .map_while(|i| Some(format!("L{} {} {}", read(i, "level")?, read(i, "type")?, read(i, "size")?)))
        .collect()
}

/// Fowler, Noll and Vo's hash: short, and the same on every machine.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "processor\t: 0\nmodel name\t: Some CPU\ncpu family\t: 26\nmodel\t\t: 2\nstepping\t: 1\nflags\t\t: fma avx2\n";

    #[test]
    fn what_differs_is_named() {
        let caches = || vec!["L1 Data 48K".to_owned(), "L3 Unified 32768K".to_owned()];
        let a = Fingerprint::from_texts(INFO, "6.1.0\n", caches());
        assert_eq!((a.cpu.as_str(), a.revision.as_str(), a.kernel.as_str()), ("Some CPU", "26/2/1", "6.1.0"));
        assert_eq!(a.last_cache(), 32 << 20);
        assert_eq!(a.differences(&a), "");
        let b = Fingerprint::from_texts(&INFO.replace("fma ", ""), "6.8.0\n", caches());
        let text = a.differences(&b);
        assert!(text.contains("flags") && text.contains("kernel: 6.1.0 and 6.8.0"), "{text}");
        assert_ne!(a.digest(), b.digest());
    }

    #[test]
    fn an_unknown_system_has_a_fingerprint_too() {
        let empty = Fingerprint::from_texts("", "", Vec::new());
        assert_eq!(empty.cpu, std::env::consts::ARCH);
        assert_eq!(empty.last_cache(), 32 << 20);
        let odd = Fingerprint { caches: vec!["L9 Odd 99999999999999999999M".into(), "x".into()], ..empty };
        assert_eq!(odd.last_cache(), 32 << 20);
    }

    #[test]
    fn the_hash_is_fnv() {
        // From the authors' test vectors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
