//! What the operating system says about this machine and this process.

use std::fs;

/// Most memory that the process held, in bytes (`VmHWM`); `None` where the system does not say.
pub(crate) fn peak_resident() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// Memory of the machine in bytes, all and available; `None` where the system does not say.
pub(crate) fn memory() -> Option<(u64, u64)> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    Some((kilobytes(&info, "MemTotal")?, kilobytes(&info, "MemAvailable")?))
}

/// Name of the processor, and how many cores it has without hyper-threads; `None` where not known.
pub(crate) fn processor() -> (Option<String>, Option<usize>) {
    let Ok(info) = fs::read_to_string("/proc/cpuinfo") else { return (None, None) };
    let values = |key: &'static str| {
        info.lines().filter_map(move |line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    };
    let mut cores: Vec<_> = values("physical id").zip(values("core id")).collect();
    cores.sort_unstable();
    cores.dedup();
    (values("model name").next(), Some(cores.len()).filter(|&n| n > 0))
}

/// The value of `key: 123 kB` in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let text = "Name:\tx\nVmHWM:\t  1024 kB\nVmHWMx: 3 kB\n";
        assert_eq!(kilobytes(text, "VmHWM"), Some(1 << 20));
        assert_eq!(kilobytes(text, "VmRSS"), None);
    }
}
