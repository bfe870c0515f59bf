//! The recorder's clock: the processor's counter where it runs evenly, otherwise the system's clock.
//!
//! Asking the system costs about 20 ns, twice for every span; the counter costs half of that. Ticks become nanoseconds
//! when a recording is taken, by the two moments at which both clocks were read.

use std::time::Instant;

/// An axis of time.
pub(super) struct Axis {
    epoch: Instant,
    first: u64,
    counter: bool,
}

/// Ticks to nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    first: u64,
    nanoseconds: f64,
}

impl Axis {
    /// Begins now.
    pub(super) fn new() -> Self {
        let counter = even_counter();
        Self { epoch: Instant::now(), first: if counter { read_counter() } else { 0 }, counter }
    }

    /// Nanoseconds since the beginning.
    #[inline]
    pub(super) fn nanoseconds(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// A reading, for [`Scale::nanoseconds`].
    #[inline]
    pub(super) fn ticks(&self) -> u64 {
        if self.counter { read_counter() } else { self.nanoseconds() }
    }

    /// What a tick is, from the beginning until now.
    pub(super) fn scale(&self) -> Scale {
        if !self.counter {
            return Scale { first: 0, nanoseconds: 1.0 };
        }
        let (ticks, now) = (read_counter().saturating_sub(self.first), self.nanoseconds());
        Scale { first: self.first, nanoseconds: if ticks == 0 { 1.0 } else { now as f64 / ticks as f64 } }
    }
}

impl Scale {
    /// Nanoseconds since the axis began.
    #[inline]
    pub(super) fn nanoseconds(self, ticks: u64) -> u64 {
        (ticks.saturating_sub(self.first) as f64 * self.nanoseconds) as u64
    }
}

/// Whether the counter has one rate whatever the processor does, and the system has found it the same on all cores.
#[cfg(target_arch = "x86_64")]
fn even_counter() -> bool {
    use std::arch::x86_64::__cpuid;
    // "Advanced power management": bit 8 says that the counter is invariant.
    const POWER: u32 = 0x8000_0007;
    let invariant = __cpuid(0x8000_0000).eax >= POWER && __cpuid(POWER).edx & 1 << 8 != 0;
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    invariant && std::fs::read_to_string(source).is_ok_and(|name| name.trim() == "tsc")
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; it only reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn even_counter() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn read_counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_clocks_agree() {
        let axis = Axis::new();
        let (ticks, before) = (axis.ticks(), axis.nanoseconds());
        std::thread::sleep(Duration::from_millis(20));
        let (later, after) = (axis.ticks(), axis.nanoseconds());
        let scale = axis.scale();
        assert!(scale.nanoseconds(ticks) <= before);
        let apart = scale.nanoseconds(later) - scale.nanoseconds(ticks);
        // The thread may have been held up between two readings.
        assert!(apart >= 20_000_000 && apart < (after - before) + 5_000_000, "{apart} ns");
        assert_eq!(scale.nanoseconds(0), 0);
    }
}
