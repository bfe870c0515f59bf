use super::{AdamW, adamw};

/// Elements that share a largest magnitude.
pub const BLOCK: usize = 256;

/// One step over the elements of a parameter in row-major order: `[p, m, v]` after it, moments not yet encoded.
/// `m` and `v` are the decoded moments before it; a gradient that is not finite clears its element's.
pub fn adamw8bit(op: &AdamW, [p, m, v]: [&[f64]; 3], g: &[f64]) -> [Vec<f64>; 3] {
    let mut after = [Vec::new(), Vec::new(), Vec::new()];
    for i in 0..p.len() {
        let new = if g[i].is_finite() { adamw(op, [p[i], m[i], v[i]], g[i]) } else { [p[i], 0.0, 0.0] };
        for (list, x) in after.iter_mut().zip(new) {
            list.push(x);
        }
    }
    after
}

/// Largest magnitude of each block.
pub fn absmax(x: &[f64]) -> Vec<f64> {
    x.chunks(BLOCK).map(|block| block.iter().fold(0.0, |a: f64, x| a.max(x.abs()))).collect()
}

/// What `codes` stand for.
pub fn decode(map: &[f32], codes: &[f64], absmax: &[f64]) -> Vec<f64> {
    codes.iter().enumerate().map(|(i, &c)| f64::from(map[c as usize]) * absmax[i / BLOCK]).collect()
}

/// Distance of `x` from the nearest entry of a map, relative to the block's largest magnitude.
pub fn distance(map: &[f32], x: f64) -> f64 {
    map.iter().map(|&entry| (f64::from(entry) - x).abs()).fold(f64::INFINITY, f64::min)
}
