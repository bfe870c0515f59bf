//! Pillow's Lanczos resampling, bit for bit (spec smolvlm §3).
//!
//! Two passes in fixed point, horizontal then vertical, each rounded to bytes. Both come down to one inner
//! loop: lanes that lie side by side in memory, added up over a few rows with one weight per row. The
//! vertical pass has it as it is; for the horizontal pass, strips of rows are transposed so that pixels of
//! one column lie side by side. Integer sums do not depend on their order, so threads and instruction
//! sets change nothing.

use std::sync::Mutex;

use engine::cpu::isa::{Isa, isa};
use engine::cpu::threads::parallel_for;

use super::Image;

/// Bits behind the point: a byte, times a weight, plus two bits of headroom for the sum, fill an i32.
const PRECISION: u32 = 32 - 8 - 2;

/// Rows that the horizontal pass takes together, and columns that are summed together.
const LANES: usize = 64;

/// Output rows per task of the vertical pass.
const BAND: usize = 32;

/// `image` with another size.
///
/// # Panics
/// If `width` or `height` is 0.
pub fn resize(image: &Image, width: usize, height: usize) -> Image {
    assert!(width > 0 && height > 0, "an image has pixels");
    let channels = image.channels();
    let mut planes = None;
    if width != image.width {
        planes = Some(horizontal(&image.planes, image.width, width));
    }
    if height != image.height {
        let source = planes.as_ref().unwrap_or(&image.planes);
        let weights = Weights::new(image.height, height);
        let (from, to) = (image.height * width, height * width);
        let mut out = vec![0; channels * to];
        for (source, out) in source.chunks_exact(from).zip(out.chunks_exact_mut(to)) {
            vertical(source, width, &weights, out);
        }
        planes = Some(out);
    }
    Image::from_planes(width, height, planes.unwrap_or_else(|| image.planes.clone()))
}

/// For every output index, the first input index and the weights from there on.
struct Weights {
    /// `(first input, start, end)` of each output; start and end in `values`.
    windows: Vec<(usize, usize, usize)>,
    values: Vec<i32>,
}

impl Weights {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let filter_scale = scale.max(1.0);
        let support = 3.0 * filter_scale;
        let mut weights = Self { windows: Vec::with_capacity(to), values: Vec::new() };
        let mut window = Vec::new();
        for o in 0..to {
            let centre = (o as f64 + 0.5) * scale;
            // A cast to an unsigned integer truncates, and takes negative numbers to 0.
            let first = (centre - support + 0.5) as usize;
            let last = ((centre + support + 0.5) as usize).min(from);
            let inverse = 1.0 / filter_scale;
            window.clear();
            window.extend((first..last).map(|i| lanczos3((i as f64 - centre + 0.5) * inverse)));
            let sum: f64 = window.iter().sum();
            let start = weights.values.len();
            weights.values.extend(window.iter().map(|w| fixed_point(w / sum)));
            weights.windows.push((first, start, weights.values.len()));
        }
        weights
    }

    fn of(&self, output: usize) -> (usize, &[i32]) {
        let (first, start, end) = self.windows[output];
        (first, &self.values[start..end])
    }
}

fn lanczos3(x: f64) -> f64 {
    if !(-3.0..3.0).contains(&x) {
        return 0.0;
    }
    sinc(x) * sinc(x / 3.0)
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// `planes`: rows of `from` pixels. All planes' rows are treated alike.
fn horizontal(planes: &[u8], from: usize, to: usize) -> Vec<u8> {
    let weights = Weights::new(from, to);
    let weigh = weigher();
    let rows = planes.len() / from;
    let mut out = vec![0; rows * to];
    let strips: Vec<_> = out.chunks_mut(LANES * to).map(Mutex::new).collect();
    parallel_for(strips.len(), |strip| {
        let source = &planes[strip * LANES * from..][..(LANES * from).min((rows - strip * LANES) * from)];
        let lanes = source.len() / from;
        let mut columns = vec![0; lanes * from];
        transpose(source, from, &mut columns);
        let mut weighed = vec![0; lanes * to];
        for (o, sum) in weighed.chunks_exact_mut(lanes).enumerate() {
            let (first, weights) = weights.of(o);
            weigh(&columns[first * lanes..], lanes, weights, sum);
        }
        // Each strip has one task, so the lock is free and never poisoned.
        let mut out = strips[strip].lock().unwrap();
        transpose(&weighed, lanes, &mut out);
    });
    out
}

/// One plane: `source` and `out` are rows of `width` pixels.
fn vertical(source: &[u8], width: usize, weights: &Weights, out: &mut [u8]) {
    let weigh = weigher();
    let bands: Vec<_> = out.chunks_mut(BAND * width).map(Mutex::new).collect();
    parallel_for(bands.len(), |band| {
        // As above: one task per band.
        let mut out = bands[band].lock().unwrap();
        for (i, row) in out.chunks_exact_mut(width).enumerate() {
            let (first, weights) = weights.of(band * BAND + i);
            weigh(&source[first * width..], width, weights, row);
        }
    });
}

/// `source` as rows of `width` bytes, written column by column.
fn transpose(source: &[u8], width: usize, out: &mut [u8]) {
    /// Edge of the squares that are turned while they are in the cache.
    const EDGE: usize = 16;
    let height = source.len() / width;
    for y0 in (0..height).step_by(EDGE) {
        for x0 in (0..width).step_by(EDGE) {
            for x in x0..(x0 + EDGE).min(width) {
                let y1 = (y0 + EDGE).min(height);
                for (y, out) in (y0..y1).zip(&mut out[x * height + y0..x * height + y1]) {
                    *out = source[y * width + x];
                }
            }
        }
    }
}

/// `out[i] = round(Σ_j weights[j] · source[j · stride + i])`.
type Weigh = fn(source: &[u8], stride: usize, weights: &[i32], out: &mut [u8]);

fn weigher() -> Weigh {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx2 {
        return |source, stride, weights, out| {
            // SAFETY: `isa()` found AVX2 on this machine.
            unsafe { weigh_avx2(source, stride, weights, out) }
        };
    }
    weigh
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn weigh_avx2(source: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
    weigh(source, stride, weights, out);
}

#[inline(always)]
fn weigh(source: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
    let mut at = 0;
    let (wide, rest) = out.as_chunks_mut::<LANES>();
    for out in wide {
        *out = weigh_lanes(&source[at..], stride, weights);
        at += LANES;
    }
    let (narrow, rest) = rest.as_chunks_mut::<8>();
    for out in narrow {
        *out = weigh_lanes(&source[at..], stride, weights);
        at += 8;
    }
    for out in rest {
        [*out] = weigh_lanes(&source[at..], stride, weights);
        at += 1;
    }
}

#[inline(always)]
fn weigh_lanes<const N: usize>(source: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
    let mut sums = [1i32 << (PRECISION - 1); N];
    for (j, &weight) in weights.iter().enumerate() {
        let pixels = &source[j * stride..][..N];
        for (sum, &pixel) in sums.iter_mut().zip(pixels) {
            *sum += i32::from(pixel) * weight;
        }
    }
    sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests;
