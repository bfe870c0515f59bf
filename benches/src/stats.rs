//! Repeats of a measurement, what is typical of them, and whether two of them differ.
//!
//! Times on a shared machine have a hard lower edge and a long upper tail, so the typical value is the median, and
//! how sure a ratio of medians is comes from resampling (percentile bootstrap, [`eval::bootstrap`]), not from a
//! normal distribution. Samples within one run share the mood of the machine at that time; whoever compares two
//! programs lets them take turns and calls [`paired`] with one value a turn.

use std::time::Instant;

use eval::bootstrap::{Bootstrap, Interval};
use serde::{Deserialize, Serialize};

/// Median and range of repeats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Middle value; of an even number the mean of the middle two.
    pub median: f64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// How many.
    pub n: usize,
}

impl Summary {
    /// `None` if there is no sample, or one is not finite.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|s| !s.is_finite()) {
            return None;
        }
        let fold = |f: fn(f64, f64) -> f64| samples.iter().copied().reduce(f).unwrap_or(f64::NAN);
        Some(Self { median: median(samples), min: fold(f64::min), max: fold(f64::max), n: samples.len() })
    }
}

/// Middle of the values, NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// What can be said about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval lies above 1.
    Faster,
    /// The whole interval lies below 1.
    Slower,
    /// The interval holds 1.
    NoDifferenceSeen,
    /// Fewer than [`LEAST`] values on a side: no interval.
    TooFew,
}

impl Verdict {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NoDifferenceSeen => "no difference seen",
            Self::TooFew => "too few repeats",
        }
    }
}

/// Fewest values of a side that allow a verdict.
pub const LEAST: usize = 4;

/// How many times as fast as the base: above 1 is faster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Base time over new time.
    pub speedup: f64,
    /// 95 % interval of it.
    pub interval: Option<Interval>,
    /// The reading.
    pub verdict: Verdict,
}

impl Comparison {
    fn new(speedup: f64, interval: Option<Interval>) -> Self {
        let verdict = match interval {
            None => Verdict::TooFew,
            Some(i) if i.low > 1.0 => Verdict::Faster,
            Some(i) if i.high < 1.0 => Verdict::Slower,
            Some(_) => Verdict::NoDifferenceSeen,
        };
        Self { speedup, interval, verdict }
    }
}

const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 2000, seed: 42, level: 0.95 };

/// Programs that took turns: `(base, new)` seconds of each turn. The statistic is the median of the turns' ratios, so
/// what slows both in one turn cancels.
pub fn paired(turns: &[(f64, f64)]) -> Comparison {
    let ratios: Vec<f64> = turns.iter().map(|(base, new)| base / new).collect();
    let of = |picked: &[usize]| median(&picked.iter().map(|&i| ratios[i]).collect::<Vec<_>>());
    let enough = ratios.len() >= LEAST;
    let interval = if enough { BOOTSTRAP.interval_of(&[ratios.len()], |drawn| of(&drawn[0])) } else { None };
    Comparison::new(median(&ratios), interval)
}

/// One earlier run against several of another program: one median each. Each new run shows how much a run differs from
/// the next (layout of memory, neighbours), which repeats within a run do not; the base is taken for one more of that
/// spread. The interval is Student's for the difference of one value and a mean, in logarithms, widened by `drift` as in
/// [`unpaired`].
pub fn one_against_many(base: f64, new: &[f64], drift: f64) -> Comparison {
    let logs: Vec<f64> = new.iter().map(|x| x.ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let speedup = base / mean.exp();
    if new.len() < LEAST || !speedup.is_finite() {
        return Comparison::new(speedup, None);
    }
    let variance = logs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
    let half = student(new.len() - 1) * (variance * (1.0 + 1.0 / n)).sqrt();
    let drift = at_least_one(drift);
    Comparison::new(
        speedup,
        Some(Interval { low: speedup / half.exp() / drift, high: speedup * half.exp() * drift }),
    )
}

/// The factor or its inverse, whichever is above 1; infinite if it is no number.
fn at_least_one(drift: f64) -> f64 {
    if drift.is_finite() { drift.max(1.0 / drift.max(1e-9)).max(1.0) } else { f64::INFINITY }
}

/// Student's t that leaves 2.5 % on each side, for so many degrees of freedom.
fn student(freedom: usize) -> f64 {
    const T: [f64; 15] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131,
    ];
    // Beyond the table Cornish and Fisher's first terms around the normal quantile, good to three digits.
    let z: f64 = 1.959_964;
    let tail = || z + (z.powi(3) + z) / (4.0 * freedom as f64);
    freedom.checked_sub(1).map_or(f64::INFINITY, |i| T.get(i).copied().unwrap_or_else(tail))
}

/// Independent runs at different times: one median of each run, both sides. The statistic is the ratio of the medians. `drift` is by what factor
/// the machine itself may have changed in between (1 for not at all); the interval is widened by it on both sides.
pub fn unpaired(base: &[f64], new: &[f64], drift: f64) -> Comparison {
    let of =
        |values: &[f64], picked: &[usize]| median(&picked.iter().map(|&i| values[i]).collect::<Vec<_>>());
    let interval = if base.len().min(new.len()) >= LEAST {
        BOOTSTRAP.interval_of(&[base.len(), new.len()], |drawn| of(base, &drawn[0]) / of(new, &drawn[1]))
    } else {
        None
    };
    let drift = at_least_one(drift);
    let interval = interval.map(|i| Interval { low: i.low / drift, high: i.high * drift });
    Comparison::new(median(base) / median(new), interval)
}

/// Samples that [`sample`] keeps at most.
const MOST: usize = 4000;
/// Calls shorter than this are timed in bundles: reading the clock costs some 25 ns.
const BUNDLE_SECONDS: f64 = 20e-6;

/// Seconds of one call of `f`, again and again for about `seconds`, at least five times. `f` gets the number of the
/// call. The first calls, for a tenth of the time, are not counted; a call that alone takes all of it is, and is the only one.
pub fn sample<E>(seconds: f64, mut f: impl FnMut(usize) -> Result<(), E>) -> Result<Vec<f64>, E> {
    let mut calls = 0;
    let mut call = |n: usize| -> Result<f64, E> {
        let begun = Instant::now();
        for _ in 0..n {
            f(calls)?;
            calls += 1;
        }
        Ok(begun.elapsed().as_secs_f64() / n as f64)
    };
    let begun = Instant::now();
    let mut once = call(1)?;
    if once >= seconds {
        return Ok(vec![once]);
    }
    while begun.elapsed().as_secs_f64() < seconds / 10.0 {
        once = call(1)?.min(once);
    }
    let bundle = ((BUNDLE_SECONDS / once.max(1e-9)) as usize).clamp(1, 1000);
    let mut samples = Vec::new();
    let begun = Instant::now();
    while samples.len() < 5 || (begun.elapsed().as_secs_f64() < seconds && samples.len() < MOST) {
        samples.push(call(bundle)?);
    }
    Ok(samples)
}

/// As [`sample`], where `f` itself tells the seconds of a call, by whatever clock.
pub fn sample_timed<E>(seconds: f64, mut f: impl FnMut() -> Result<f64, E>) -> Result<Vec<f64>, E> {
    let begun = Instant::now();
    let once = f()?;
    if begun.elapsed().as_secs_f64() >= seconds {
        return Ok(vec![once]);
    }
    while begun.elapsed().as_secs_f64() < seconds / 10.0 {
        f()?;
    }
    let mut samples = Vec::new();
    let begun = Instant::now();
    while samples.len() < 5 || (begun.elapsed().as_secs_f64() < seconds && samples.len() < MOST) {
        samples.push(f()?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Rng;

    /// Times as a busy machine gives them: a floor, jitter, and now and then something else running.
    fn noisy(rng: &mut Rng, floor: f64, n: usize) -> Vec<f64> {
        let tail = |rng: &mut Rng| if rng.below(10) == 0 { 1.5 } else { 1.0 };
        (0..n).map(|_| floor * (1.0 + 0.02 * rng.uniform()) * tail(rng)).collect()
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let s = Summary::of(&[2.0, 8.0, 4.0]).unwrap();
        assert_eq!((s.median, s.min, s.max, s.n), (4.0, 2.0, 8.0, 3));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_real_change_is_seen_and_none_is_not() {
        let mut rng = Rng::new(7);
        let (base, same, quick) =
            (noisy(&mut rng, 1.0, 60), noisy(&mut rng, 1.0, 60), noisy(&mut rng, 0.9, 60));
        assert_eq!(unpaired(&base, &quick, 1.0).verdict, Verdict::Faster);
        assert_eq!(unpaired(&quick, &base, 1.0).verdict, Verdict::Slower);
        let none = unpaired(&base, &same, 1.0);
        assert_eq!(none.verdict, Verdict::NoDifferenceSeen, "{none:?}");
        // A machine that changed by 15 % cannot show 10 %.
        assert_eq!(unpaired(&base, &quick, 1.15).verdict, Verdict::NoDifferenceSeen);
        assert_eq!(unpaired(&base, &quick, 1.0 / 1.15).verdict, Verdict::NoDifferenceSeen);
        assert_eq!(unpaired(&base[..3], &quick, 1.0).verdict, Verdict::TooFew);
    }

    #[test]
    fn turns_cancel_what_slows_both() {
        let mut rng = Rng::new(3);
        // The machine's speed wanders by a factor of two; the new program takes 97 % of the time.
        let turns: Vec<(f64, f64)> = (0..12)
            .map(|_| {
                let mood = 1.0 + rng.uniform();
                (mood * (1.0 + 0.005 * rng.uniform()), 0.97 * mood * (1.0 + 0.005 * rng.uniform()))
            })
            .collect();
        let seen = paired(&turns);
        assert_eq!(seen.verdict, Verdict::Faster, "{seen:?}");
        assert!((seen.speedup - 1.0 / 0.97).abs() < 0.01);
        let (base, new): (Vec<f64>, Vec<f64>) = turns.into_iter().unzip();
        assert_eq!(unpaired(&base, &new, 1.0).verdict, Verdict::NoDifferenceSeen);
    }

    #[test]
    fn one_run_is_judged_by_the_spread_of_others() {
        let mut rng = Rng::new(5);
        let mut run = |center: f64| center * (1.0 + 0.04 * (rng.uniform() - 0.5));
        let mut alarms = 0;
        for _ in 0..200 {
            let new: Vec<f64> = (0..8).map(|_| run(1.0)).collect();
            let none = one_against_many(run(1.0), &new, 1.0);
            alarms += usize::from(none.verdict != Verdict::NoDifferenceSeen);
            let seen = one_against_many(run(1.2), &new, 1.0);
            assert_eq!(seen.verdict, Verdict::Faster, "{seen:?}");
            assert_eq!(one_against_many(run(1.2), &new, 1.4).verdict, Verdict::NoDifferenceSeen);
        }
        assert!(alarms <= 20, "{alarms} of 200 at a level of 5 %");
        assert_eq!(one_against_many(1.0, &[1.0; 3], 1.0).verdict, Verdict::TooFew);
        assert!((student(7) - 2.365).abs() < 1e-9 && (student(40) - 2.021).abs() < 2e-3);
    }

    #[test]
    fn false_alarms_are_as_rare_as_the_level_says() {
        let mut rng = Rng::new(11);
        let alarms = (0..200)
            .filter(|_| {
                let (a, b) = (noisy(&mut rng, 1.0, 20), noisy(&mut rng, 1.0, 20));
                unpaired(&a, &b, 1.0).verdict != Verdict::NoDifferenceSeen
            })
            .count();
        assert!(alarms <= 20, "{alarms} of 200 at a level of 5 %");
    }

    #[test]
    fn samples_are_numbered_and_errors_end_them() {
        let mut seen = Vec::new();
        let samples = sample::<()>(0.001, |i| {
            seen.push(i);
            Ok(())
        });
        assert!(samples.unwrap().len() >= 5);
        assert!(seen.windows(2).all(|w| w[1] == w[0] + 1));
        assert_eq!(sample(1.0, |i| if i < 3 { Ok(()) } else { Err("stop") }), Err("stop"));
        assert!(sample_timed(1e-3, || Ok::<_, ()>(7.0)).unwrap().iter().all(|&s| s == 7.0));
        assert_eq!(sample_timed(0.0, || Ok::<_, ()>(7.0)), Ok(vec![7.0]));
        assert_eq!(sample_timed(1.0, || Err("stop")), Err("stop"));
    }
}
