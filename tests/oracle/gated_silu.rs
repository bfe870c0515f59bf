use super::Array;

/// `gate / (1 + e^(−gate)) · up`.
pub fn gated_silu(gate: &Array, up: &Array) -> Array {
    gate.zip(up, |x, u| x / (1.0 + (-x).exp()) * u)
}
