//! Run-time choice of the instruction set.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction-set paths, worst first. Each CPU kernel has a portable version; the others are optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// As portable, but products and the forward pass of attention are the plain loops that define them, on one thread:
    /// the bottom rung of the ladders in docs/kernels. Not for use.
    Reference,
    /// Plain Rust, whatever the compiler's baseline target gives. All other architectures.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ. No bf16 dot product.
    Avx512,
    /// The above with `AVX512_BF16` (`vdpbf16ps`).
    Avx512Bf16,
}

impl Isa {
    /// Every path, worst first; the place is the number in [`CHOICE`].
    pub const ALL: [Self; 5] = [Self::Reference, Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// The paths for use that this machine offers, worst first.
    pub fn offered() -> impl Iterator<Item = Self> {
        let best = Self::detect();
        Self::ALL.into_iter().filter(move |&isa| isa > Self::Reference && isa <= best)
    }

    /// Name for `devices` and for `ROENTGEN_CPU`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }

    /// What this machine offers, regardless of the environment.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx512 && is_x86_feature_detected!("avx512bf16") {
                return Self::Avx512Bf16;
            }
            if avx512 {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Parses the value of `ROENTGEN_CPU`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }
}

/// No place in [`Isa::ALL`]: the environment has not been asked.
const UNDECIDED: u8 = u8::MAX;
/// The path in use. All threads of a kernel must agree, so it is one for the process.
static CHOICE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// The path in use: the best of this machine, or a lower one that `ROENTGEN_CPU` or [`with_isa`] asks for. An unknown
/// or unavailable name is reported by [`requested_error`] and ignored here.
#[inline]
pub fn isa() -> Isa {
    match Isa::ALL.get(usize::from(CHOICE.load(Ordering::Relaxed))) {
        Some(&isa) => isa,
        None => decide(),
    }
}

#[cold]
fn decide() -> Isa {
    let best = Isa::detect();
    let isa = match std::env::var("ROENTGEN_CPU").ok().as_deref().and_then(Isa::parse) {
        Some(wanted) if wanted <= best => wanted,
        _ => best,
    };
    CHOICE.store(isa as u8, Ordering::Relaxed);
    isa
}

/// Runs `f` with another path in the whole process, to compare paths within one run. Concurrent callers wait for each
/// other; kernels that other threads run meanwhile take the path, too, and give right results on it.
///
/// # Errors
/// If this machine does not offer the path; `f` does not run then.
pub fn with_isa<R>(wanted: Isa, f: impl FnOnce() -> R) -> crate::Result<R> {
    static TURN: Mutex<()> = Mutex::new(());
    struct Restore(Isa);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOICE.store(self.0 as u8, Ordering::Relaxed);
        }
    }
    if wanted > Isa::detect() {
        return Err(crate::Error::Device(format!(
            "the path {} needs instructions that this machine lacks; it offers {}",
            wanted.name(),
            Isa::detect().name()
        )));
    }
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _restore = Restore(isa());
    CHOICE.store(wanted as u8, Ordering::Relaxed);
    Ok(f())
}

/// Why the value of `ROENTGEN_CPU` cannot be honoured, if it cannot. The binary stops with this text.
pub fn requested_error() -> Option<String> {
    let value = std::env::var("ROENTGEN_CPU").ok()?;
    match Isa::parse(&value) {
        None => Some(format!(
            "ROENTGEN_CPU={value}: unknown; use portable, avx2, avx512 or avx512bf16 (or reference, to measure against)"
        )),
        Some(wanted) if wanted > Isa::detect() => {
            Some(format!("ROENTGEN_CPU={value}: this machine offers only {}", Isa::detect().name()))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lasts_as_long_as_its_closure() {
        let before = isa();
        assert_eq!(with_isa(Isa::Portable, isa).unwrap(), Isa::Portable);
        assert_eq!(isa(), before);
        let _ = std::panic::catch_unwind(|| with_isa(Isa::Portable, || panic!("planted")));
        assert_eq!(isa(), before);
        assert!(Isa::ALL.iter().enumerate().all(|(i, &path)| path as usize == i));
        if Isa::detect() < Isa::Avx512Bf16 {
            assert!(with_isa(Isa::Avx512Bf16, || ()).unwrap_err().to_string().contains("avx512bf16"));
        }
    }
}
