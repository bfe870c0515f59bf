//! Choice of the next token from logits.

use std::cmp::Ordering;

use engine::Rng;

use crate::error::{Error, Result};

/// How the next token is chosen. The steps run in the order of the fields, as in transformers.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits of tokens that stand in the sequence are divided (if positive) or multiplied by this (Keskar
    /// et al. 2019, arXiv 1909.05858). 1 is off.
    pub repetition_penalty: f32,
    /// Logits are divided by this; 0 takes the likeliest token and ignores the rest.
    pub temperature: f32,
    /// Keep this many likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens whose probabilities sum to this (Holtzman et al. 2019, arXiv 1904.09751). 1
    /// keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082).
    /// 0 keeps all.
    pub min_p: f32,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl Sampling {
    /// Refuses values without a meaning.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, what: &str, rule: &str| {
            if ok { Ok(()) } else { Err(Error::Input(format!("{what} must be {rule}"))) }
        };
        check(self.temperature >= 0.0 && self.temperature.is_finite(), "temperature", "0 (greedy) or more")?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top-p", "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min-p", "between 0 and 1")?;
        check(
            self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
            "repetition penalty",
            "above 0 (1 is off)",
        )
    }

    /// The next token after the sequence `seen`. `logits` are those of its last position and are changed.
    /// The same `rng` state gives the same token.
    pub fn choose(&self, logits: &mut [f32], seen: &[u32], rng: &mut Rng) -> Result<u32> {
        if let Some(i) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(Error::NotFinite(format!("logit {i} of {} is {}", logits.len(), logits[i])));
        }
        if self.penalises() {
            let mut seen: Vec<u32> = seen.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                if let Some(x) = logits.get_mut(id as usize) {
                    *x = self.penalised(*x);
                }
            }
        }
        if self.temperature == 0.0 {
            return argmax(logits).ok_or_else(|| Error::Input("no logits to choose from".into()));
        }
        let all = logits.iter().enumerate();
        Ok(self
            .draw(all.map(|(i, &x)| (i as u32, f64::from(x) / f64::from(self.temperature))).collect(), rng))
    }

    /// Whether tokens that stand in the sequence have other logits.
    pub(crate) fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    /// The logit of a token that stands in the sequence.
    pub(crate) fn penalised(&self, x: f32) -> f32 {
        if x > 0.0 { x / self.repetition_penalty } else { x * self.repetition_penalty }
    }

    /// Draws from ids with their logits over the temperature.
    fn draw(&self, mut kept: Vec<(u32, f64)>, rng: &mut Rng) -> u32 {
        if self.top_k > 0 && self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, likelier);
            kept.truncate(self.top_k);
        }
        kept.sort_unstable_by(likelier);
        to_weights(&mut kept);
        self.draw_weights(kept, rng)
    }

    /// Draws from ids with their weights, the likeliest first, which has weight 1.
    pub(crate) fn draw_weights(&self, mut kept: Vec<(u32, f64)>, rng: &mut Rng) -> u32 {
        if self.top_p < 1.0 {
            let total: f64 = kept.iter().map(|k| k.1).sum();
            let mut sum = 0.0;
            // The token that crosses the limit is kept.
            let n = kept.iter().take_while(|(_, p)| {
                let before = sum;
                sum += p / total;
                before < f64::from(self.top_p)
            });
            let n = n.count().max(1);
            kept.truncate(n);
        }
        self.draw_nucleus(kept, rng)
    }

    /// As [`Self::draw_weights`] where top-p has been applied.
    pub(crate) fn draw_nucleus(&self, mut kept: Vec<(u32, f64)>, rng: &mut Rng) -> u32 {
        // The likeliest has weight 1 here, so min-p compares weights as they are.
        kept.retain(|&(_, p)| p >= f64::from(self.min_p));
        let total: f64 = kept.iter().map(|k| k.1).sum();
        let mut point = rng.uniform() * total;
        for &(id, p) in &kept {
            point -= p;
            if point < 0.0 {
                return id;
            }
        }
        kept[kept.len() - 1].0
    }
}

/// Order of `(id, logit)`: likeliest first, equal ones by id, so that it is one and the same everywhere.
pub(crate) fn likelier(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Makes logits, the largest first, weights relative to it.
pub(crate) fn to_weights(kept: &mut [(u32, f64)]) {
    let largest = kept[0].1;
    for (_, x) in kept {
        *x = (*x - largest).exp();
    }
}

/// Index of the largest value; the first of equals.
pub fn argmax(values: &[f32]) -> Option<u32> {
    let mut best = None;
    for (i, &x) in values.iter().enumerate() {
        if best.is_none_or(|(_, b)| x > b) {
            best = Some((i as u32, x));
        }
    }
    best.map(|b| b.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut rng = Rng::new(7);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampling.choose(&mut logits.to_vec(), &[], &mut rng).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
        let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (seen, weight) in share(&sampling, &logits).iter().zip(&weights) {
            assert!((seen - weight / total).abs() < 0.015, "{seen} against {}", weight / total);
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.0f32, 1.0, 2.0, -1.0]; // probabilities 0.087, 0.237, 0.644, 0.032
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let support = |s: Sampling| {
            share(&s, &logits)
                .iter()
                .enumerate()
                .filter(|(_, p)| **p > 0.0)
                .map(|(i, _)| i)
                .collect::<Vec<_>>()
        };
        assert_eq!(support(base.clone()), [0, 1, 2, 3]);
        assert_eq!(support(Sampling { top_k: 2, ..base.clone() }), [1, 2]);
        assert_eq!(support(Sampling { top_p: 0.6, ..base.clone() }), [2]);
        assert_eq!(support(Sampling { top_p: 0.7, ..base.clone() }), [1, 2]);
        assert_eq!(support(Sampling { min_p: 0.1, ..base.clone() }), [0, 1, 2]);
        assert_eq!(support(Sampling { top_k: 1, ..base }), [2]);
    }

    #[test]
    fn the_penalty_and_the_seed_act() {
        let mut rng = Rng::new(0);
        let greedy = Sampling { repetition_penalty: 4.0, ..Sampling::default() };
        assert_eq!(greedy.choose(&mut [1.0, 2.0, -3.0], &[1, 1], &mut rng).unwrap(), 0);
        assert_eq!(greedy.choose(&mut [-1.0, -2.0, -3.0], &[0], &mut rng).unwrap(), 1);
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        let run = |seed| {
            let mut rng = Rng::new(seed);
            (0..32).map(|_| warm.choose(&mut [0.0; 50], &[], &mut rng).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn senseless_values_are_refused() {
        let base = Sampling::default();
        assert!(base.validate().is_ok());
        for bad in [
            Sampling { temperature: -1.0, ..base.clone() },
            Sampling { temperature: f32::NAN, ..base.clone() },
            Sampling { top_p: 0.0, ..base.clone() },
            Sampling { min_p: 1.5, ..base.clone() },
            Sampling { repetition_penalty: 0.0, ..base.clone() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        assert!(base.choose(&mut [0.0, f32::NAN], &[], &mut Rng::new(0)).is_err());
        assert!(base.choose(&mut [], &[], &mut Rng::new(0)).is_err());
    }
}
