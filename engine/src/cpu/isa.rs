//! Run-time choice of the instruction set.

use std::sync::OnceLock;

/// Instruction-set paths, best first. Each CPU kernel has a portable version; the others are optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
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
    /// Name for `devices` and for `ROENTGEN_CPU`.
    pub const fn name(self) -> &'static str {
        match self {
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
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16]
            .into_iter()
            .find(|isa| isa.name() == name)
    }
}

/// The path in use: the best of this machine, or a lower one that `ROENTGEN_CPU` asks for. An unknown
/// or unavailable name is reported by [`requested_error`] and ignored here.
pub fn isa() -> Isa {
    static CHOICE: OnceLock<Isa> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        let best = Isa::detect();
        match std::env::var("ROENTGEN_CPU").ok().as_deref().and_then(Isa::parse) {
            Some(wanted) if wanted <= best => wanted,
            _ => best,
        }
    })
}

/// Why the value of `ROENTGEN_CPU` cannot be honoured, if it cannot. The binary stops with this text.
pub fn requested_error() -> Option<String> {
    let value = std::env::var("ROENTGEN_CPU").ok()?;
    match Isa::parse(&value) {
        None => Some(format!("ROENTGEN_CPU={value}: unknown; use portable, avx2, avx512 or avx512bf16")),
        Some(wanted) if wanted > Isa::detect() => {
            Some(format!("ROENTGEN_CPU={value}: this machine offers only {}", Isa::detect().name()))
        }
        Some(_) => None,
    }
}
