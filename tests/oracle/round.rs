use engine::DType;

/// Precision in bits (the leading one included), least exponent of a normal number, and largest value.
fn format(dtype: DType) -> Option<(i32, i32, f64)> {
    match dtype {
        DType::F32 => Some((24, -126, f64::from(f32::MAX))),
        DType::BF16 => Some((8, -126, 2f64.powi(128) - 2f64.powi(120))),
        DType::F16 => Some((11, -14, 65504.0)),
        DType::U8 | DType::U32 | DType::I32 => None,
    }
}

/// The value that `dtype` holds for `x`: nearest even for floats, truncated and saturated for integers.
pub fn round(x: f64, dtype: DType) -> f64 {
    let Some((precision, least, largest)) = format(dtype) else {
        let (low, high) = match dtype {
            DType::U8 => (0.0, f64::from(u8::MAX)),
            DType::U32 => (0.0, f64::from(u32::MAX)),
            _ => (f64::from(i32::MIN), f64::from(i32::MAX)),
        };
        return if x.is_nan() { 0.0 } else { x.trunc().clamp(low, high) + 0.0 };
    };
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    // The exponent field of an f64; its own subnormals are far below every format here.
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(least);
    let quantum = 2f64.powi(exponent - (precision - 1));
    let rounded = (x / quantum).round_ties_even() * quantum;
    if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded }
}

/// Half a unit in the last place, relative to the value: the largest relative error of one rounding.
pub fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        DType::U8 | DType::U32 | DType::I32 => 0.0,
    }
}
