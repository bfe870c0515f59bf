//! Bandwidth by working set: reading, and the triad of `STREAM` (`McCalpin` 1995).

use std::hint::black_box;
use std::time::Instant;

use engine::cpu::isa::Isa;
use engine::cpu::threads::{Scatter, parallel_for, threads};
use memmap2::MmapMut;

use super::{Effort, Level};

const LEAST: usize = 16 << 10;
const MOST: usize = 512 << 20;
/// Floats of a cache line.
const LINE: usize = 16;
/// Floats that a reader combines in one turn: enough independent sums to load two vectors a cycle.
const STEP: usize = 8 * LINE;

/// Working sets to look at.
fn sets(effort: Effort) -> Vec<usize> {
    let all = std::iter::successors(Some(LEAST), |n| Some(n * 2)).take_while(|&n| n <= most());
    match effort {
        Effort::Full => all.collect(),
        Effort::Quick => all.step_by(2).collect(),
        // What decides most verdicts: memory itself.
        Effort::Probe => all.filter(|&n| n >= most() / 4).collect(),
    }
}

/// The largest set: a sixth of the free memory at most.
fn most() -> usize {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info.lines().find_map(|line| {
        let value = line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?;
        value.trim().parse::<usize>().ok()?.checked_mul(1024)
    });
    free.map_or(MOST, |free| (free / 6).clamp(LEAST, MOST))
}

/// Every working set, read and triad, each the best of several ways to do it.
pub(super) fn measure(effort: Effort) -> Vec<Level> {
    let seconds = match effort {
        Effort::Full => 0.12,
        Effort::Quick => 0.03,
        Effort::Probe => 0.05,
    };
    let sets = sets(effort);
    let Some(&largest) = sets.last() else { return Vec::new() };
    let Ok(mut map) = MmapMut::map_anon(largest) else { return Vec::new() };
    // A wish: with small pages the largest sets read a little slower.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    // Pages are there from the first write on.
    map.fill(0);
    let (head, floats, _) = {
        // SAFETY: any bytes are floats, and a map of zeros holds zeros.
        unsafe { map.align_to_mut::<f32>() }
    };
    debug_assert!(head.is_empty(), "a map begins at a page");
    sets.into_iter()
        .map(|bytes| {
            let set = &mut floats[..bytes / size_of::<f32>()];
            let streams = [1, 4].into_iter();
            let read = streams.map(|n| best(seconds, bytes, || read_once(set, n)));
            let read = read.fold(0.0, f64::max);
            // Stores that go around the caches pay where the set is larger than they are.
            let around: &[bool] = if bytes > 1 << 20 { &[false, true] } else { &[false] };
            let mut triad = 0f64;
            for &around in around {
                triad = triad.max(best(seconds, bytes / 3, || triad_once(set, around)) * 3.0);
            }
            Level { bytes, read, triad }
        })
        .collect()
}

/// Bytes a second of the best trial; `pass` goes over its set as often as it is told and says how often that was.
fn best(seconds: f64, bytes: usize, mut pass: impl FnMut() -> Pass) -> f64 {
    let mut most = 0f64;
    let begun = Instant::now();
    let mut trials = 0;
    while trials < 4 || begun.elapsed().as_secs_f64() < seconds {
        let Pass { passes, seconds } = pass();
        most = most.max((bytes * passes) as f64 / seconds);
        trials += 1;
    }
    most
}

/// So many passes in so much time.
struct Pass {
    passes: usize,
    seconds: f64,
}

/// Passes that make a trial of about a quarter of a millisecond at the speed of a first-level cache.
fn passes(bytes: usize) -> usize {
    ((128 << 20) / bytes.max(1)).clamp(1, 4096)
}

/// Floats of each thread: whole lines, in `parts` equal pieces.
fn share(set: &[f32], parts: usize) -> usize {
    (set.len() / threads() / (parts * LINE)).max(1) * parts * LINE
}

fn read_once(set: &[f32], streams: usize) -> Pass {
    let share = share(set, 4 * STEP / LINE).min(set.len());
    let passes = passes(size_of_val(set));
    let tasks = (set.len() / share).min(threads());
    let begun = Instant::now();
    parallel_for(tasks, |i| {
        let part = &set[i * share..][..share];
        for _ in 0..passes {
            black_box(read(black_box(part), streams));
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    // What the threads' whole lines leave over is not read and not counted.
    Pass { passes, seconds: seconds * set.len() as f64 / (tasks * share) as f64 }
}

fn triad_once(set: &mut [f32], around: bool) -> Pass {
    let passes = passes(size_of_val(set));
    let third = set.len() / 3 / LINE * LINE;
    let (a, rest) = set.split_at_mut(third);
    let (b, rest) = rest.split_at(third);
    let c = &rest[..third];
    let share = share(a, 1).min(third);
    let tasks = (third / share).min(threads());
    let out = Scatter::new(a);
    let begun = Instant::now();
    parallel_for(tasks, |i| {
        let range = i * share..(i + 1) * share;
        // SAFETY: each task has a share of its own.
        let a = unsafe { out.slice(range.start, share) };
        for _ in 0..passes {
            triad(black_box(&mut *a), black_box(&b[range.clone()]), black_box(&c[range.clone()]), around);
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    Pass { passes, seconds: seconds * third as f64 / (tasks * share) as f64 }
}

/// Combines all of `part`, read as `streams` streams beside each other.
fn read(part: &[f32], streams: usize) -> u64 {
    match Isa::detect() {
        // SAFETY: detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { read_512(part, streams) },
        // SAFETY: detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { read_256(part, streams) },
        _ => read_portable(part, streams),
    }
}

/// [`STEP`] floats of each of `streams` equal pieces, in turn.
macro_rules! read_with {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal, $zero:ident, $load:ident, $xor:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $name(part: &[f32], streams: usize) -> u64 {
            use std::arch::x86_64::*;
            const LOADS: usize = STEP / $lanes;
            let stretch = part.len() / streams;
            let mut sums = [$zero(); LOADS];
            for at in (0..stretch - stretch % STEP).step_by(STEP) {
                for s in 0..streams {
                    let lines = part[s * stretch + at..][..STEP].as_ptr();
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: the slice has STEP floats.
                        let line = unsafe { $load(lines.add(i * $lanes).cast()) };
                        *sum = $xor(*sum, line);
                    }
                }
            }
            let mut rest = 0;
            for s in 0..streams {
                let tail = &part[s * stretch..][stretch - stretch % STEP..stretch];
                rest = tail.iter().fold(rest, |a, x| a ^ x.to_bits());
            }
            let words: [u64; size_of::<[$vector; LOADS]>() / 8] = {
                // SAFETY: plain data of the same size.
                unsafe { std::mem::transmute(sums) }
            };
            words.iter().fold(u64::from(rest), |a, b| a ^ b)
        }
    };
}
read_with!(read_512, "avx512f", __m512i, 16, _mm512_setzero_si512, _mm512_loadu_si512, _mm512_xor_si512);
read_with!(read_256, "avx2", __m256i, 8, _mm256_setzero_si256, _mm256_loadu_si256, _mm256_xor_si256);

fn read_portable(part: &[f32], streams: usize) -> u64 {
    let stretch = part.len() / streams;
    let mut sums = [0u32; STEP];
    for at in (0..stretch).step_by(STEP) {
        for s in 0..streams {
            // The last turn may be short.
            let lines = &part[s * stretch + at..(s + 1) * stretch];
            for (sum, x) in sums.iter_mut().zip(lines) {
                *sum ^= x.to_bits();
            }
        }
    }
    u64::from(sums.iter().fold(0, |a, b| a ^ b))
}

/// `a = b + 3·c`; `around` the caches where the machine can.
fn triad(a: &mut [f32], b: &[f32], c: &[f32], around: bool) {
    match Isa::detect() {
        // SAFETY: detected; the pieces are whole lines of a map that begins at a page.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { triad_512(a, b, c, around) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { triad_256(a, b, c, around) },
        _ => {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + 3.0 * c;
            }
        }
    }
}

macro_rules! triad_with {
    ($name:ident, $features:literal, $lanes:literal, $set:ident, $load:ident, $fma:ident, $store:ident, $stream:ident) => {
        /// # Safety
        /// `a` must be aligned to a vector and whole vectors long, and the others as long.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $name(a: &mut [f32], b: &[f32], c: &[f32], around: bool) {
            use std::arch::x86_64::*;
            let three = $set(3.0);
            let n = a.len().min(b.len()).min(c.len());
            for i in (0..n - n % $lanes).step_by($lanes) {
                // SAFETY: a vector fits at `i` in each, and `a` is aligned by the caller.
                unsafe {
                    let sum = $fma($load(c.as_ptr().add(i)), three, $load(b.as_ptr().add(i)));
                    let to = a.as_mut_ptr().add(i);
                    if around { $stream(to, sum) } else { $store(to, sum) }
                }
            }
            if around {
                _mm_sfence();
            }
        }
    };
}
triad_with!(
    triad_512,
    "avx512f",
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps,
    _mm512_stream_ps
);
triad_with!(
    triad_256,
    "avx2,fma",
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps,
    _mm256_stream_ps
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_sees_memory() {
        let levels = measure(Effort::Probe);
        assert!(levels.iter().all(|l| l.read > 1e7 && l.triad > 1e7), "{levels:?}");
    }

    #[repr(align(64))]
    struct Aligned([f32; 64]);

    #[test]
    fn every_float_is_read_once_and_written_once() {
        let n = 4 * (3 * STEP + LINE);
        let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let want = values.iter().fold(0, |a, x| a ^ x.to_bits());
        for streams in [1, 4] {
            let fold = |x: u64| (x ^ (x >> 32)) as u32;
            assert_eq!(fold(read(&values, streams)), want, "{streams}");
            assert_eq!(fold(read_portable(&values, streams)), want, "{streams}");
        }
        let mut a = Aligned([0.0; 64]);
        for around in [false, true] {
            a.0.fill(0.0);
            triad(&mut a.0, &values[..64], &values[64..128], around);
            assert!(a.0.iter().enumerate().all(|(i, &x)| x == (i + 3 * (i + 64)) as f32));
        }
    }

    #[test]
    fn sets_double_up_to_half_a_gigabyte() {
        let sets = sets(Effort::Full);
        assert_eq!(sets[0], 16 << 10);
        assert!(sets.windows(2).all(|w| w[1] == 2 * w[0]));
    }
}
