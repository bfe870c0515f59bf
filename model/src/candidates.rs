//! Choosing the next token from the few logits that can decide it: the others stay on the device. The token is the one
//! that [`Sampling::choose`] gives for all logits and the same random numbers, or none where the few leave a doubt.
//!
//! The largest logits come down, sorted, with those of the tokens that a repetition penalty changes, and, where it takes
//! the mass of all tokens to say where top-p ends or where the random point lies, that mass: a sum in f32, of which the
//! choice must not hang on the last digits.

use engine::{DType, Rng, Tensor};

use crate::error::{Error, Result};
use crate::sample::{Sampling, likelier, to_weights};

/// Candidates that come down where the settings do not say how many decide.
const FEW: usize = 256;

/// Bound of the relative error of a sum of weights in f32 that is taken for granted: many times what sums by blocks, as
/// the backends make them, are off.
const MASS_ERROR: f64 = 1.0 / 32_768.0;

impl Sampling {
    /// How many of the largest of `tokens` logits are asked for.
    fn few(&self, tokens: usize) -> usize {
        let k = match (self.temperature == 0.0, self.top_k) {
            (true, _) => 1,
            (false, 0) => FEW,
            (false, k) => k,
        };
        // Tokens that a penalty moves back leave others to take their places.
        k.saturating_add(if self.penalises() { FEW } else { 0 }).min(tokens)
    }

    /// Whether the mass of all tokens has a say.
    fn needs_mass(&self) -> bool {
        self.temperature != 0.0 && self.top_k == 0 && (self.top_p < 1.0 || self.min_p == 0.0)
    }
}

/// Bytes as words.
fn words(bytes: &[u8]) -> std::vec::IntoIter<u32> {
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
    words.into_iter()
}

/// The logits of a step of all sequences of a batch.
pub(crate) struct Logits {
    /// `[batch, 1, tokens]`
    all: Tensor,
    tokens: usize,
    few: usize,
    /// `[batch, few]`, in descending order, and their ids.
    values: Vec<f32>,
    ids: Vec<u32>,
    /// Σ exp((x − largest) / temperature) of each sequence, if it is needed.
    mass: Option<Vec<f32>>,
    /// Of each sequence its tokens, each once, and their logits before the penalty; nothing without one.
    seen: Vec<Vec<(u32, f32)>>,
}

impl Logits {
    /// Of `logits [batch, 1, vocabulary]` the first `tokens` may be chosen; `seen` are the sequences so far.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn new(logits: &Tensor, tokens: usize, sampling: &Sampling, seen: &[&[u32]]) -> Result<Self> {
        let vocabulary = logits.dim(2)?;
        let all = logits.narrow(2, 0, tokens)?;
        let few = sampling.few(tokens);
        let (values, ids) = all.top_k(few)?;
        let mass = if sampling.needs_mass() && few < tokens {
            let largest = values.narrow(2, 0, 1)?;
            let weights =
                all.to_dtype(DType::F32)?.sub(&largest)?.affine(sampling.temperature.recip(), 0.0)?.exp()?;
            Some(weights.sum(&[2])?)
        } else {
            None
        };
        let mut once: Vec<Vec<(u32, f32)>> = vec![Vec::new(); seen.len()];
        let mut found = None;
        if sampling.penalises() {
            let mut places = Vec::new();
            for (i, (seen, once)) in seen.iter().zip(&mut once).enumerate() {
                let mut ids: Vec<u32> = seen.iter().copied().filter(|&id| (id as usize) < tokens).collect();
                ids.sort_unstable();
                ids.dedup();
                places.extend(ids.iter().map(|id| (i * vocabulary) as u32 + id));
                once.extend(ids.into_iter().map(|id| (id, 0.0)));
            }
            if !places.is_empty() {
                let places = Tensor::from_slice(&places, &[places.len()], logits.device())?;
                let table = logits.reshape(&[seen.len() * vocabulary, 1])?;
                found = Some(table.embedding(&places)?.to_dtype(DType::F32)?);
            }
        }
        // All at once: the device is waited for once a token.
        let wanted: Vec<&Tensor> = [&values, &ids].into_iter().chain(&mass).chain(&found).collect();
        let mut read = Tensor::to_bytes_of(&wanted)?.into_iter();
        let mut next = || words(&read.next().unwrap_or_default());
        let values = next().map(f32::from_bits).collect();
        let ids = next().collect();
        let mass = mass.map(|_| next().map(f32::from_bits).collect());
        if found.is_some() {
            for ((_, x), bits) in once.iter_mut().flatten().zip(next()) {
                *x = f32::from_bits(bits);
            }
        }
        Ok(Self { tokens, few, values, ids, mass, seen: once, all })
    }

    /// The next token of sequence `i`, of which `seen` are the tokens so far.
    ///
    /// # Errors
    /// If a logit is NaN or infinite.
    pub(crate) fn choose(&self, i: usize, sampling: &Sampling, seen: &[u32], rng: &mut Rng) -> Result<u32> {
        if let Some(id) = self.candidates(i).choose(sampling, rng)? {
            return Ok(id);
        }
        sampling.choose(&mut self.all.narrow(0, i, 1)?.to_f32_vec()?, seen, rng)
    }

    fn candidates(&self, i: usize) -> Candidates<'_> {
        let row = i * self.few..(i + 1) * self.few;
        Candidates {
            values: &self.values[row.clone()],
            ids: &self.ids[row],
            tokens: self.tokens,
            mass: self.mass.as_ref().map(|mass| f64::from(mass[i])),
            seen: &self.seen[i],
        }
    }
}

/// What is known of a sequence's logits.
struct Candidates<'a> {
    /// The largest before a penalty: in descending order, NaN before all, of equal ones the lower id first.
    values: &'a [f32],
    ids: &'a [u32],
    /// How many there are in all.
    tokens: usize,
    /// Σ exp((x − values[0]) / temperature) over all, before a penalty, up to [`MASS_ERROR`].
    mass: Option<f64>,
    /// Tokens that the penalty changes with their logits before it.
    seen: &'a [(u32, f32)],
}

impl Candidates<'_> {
    /// The token, if they decide; `rng` is as before if they do not.
    fn choose(&self, sampling: &Sampling, rng: &mut Rng) -> Result<Option<u32>> {
        let Some((&first, &id)) = self.values.first().zip(self.ids.first()) else {
            return Err(Error::Input("no logits to choose from".into()));
        };
        if first.is_nan() || first == f32::INFINITY {
            return Err(Error::NotFinite(format!("logit {id} is {first}")));
        }
        let known = self.known(sampling);
        if sampling.temperature == 0.0 {
            // As `argmax`: the first of equals, and both zeros are equal.
            let order =
                |a: &&(u32, f32), b: &&(u32, f32)| a.1.partial_cmp(&b.1).map(|o| o.then(b.0.cmp(&a.0)));
            let best = known.iter().max_by(|a, b| order(a, b).unwrap_or(std::cmp::Ordering::Equal));
            return Ok(best.map(|b| b.0));
        }
        let by = f64::from(sampling.temperature);
        let mut kept: Vec<(u32, f64)> = known.into_iter().map(|(id, x)| (id, f64::from(x) / by)).collect();
        kept.sort_unstable_by(likelier);
        let Some(&(_, largest)) = kept.first() else { return Ok(None) };
        let whole = kept.len() == self.tokens;
        if sampling.top_k > 0 && kept.len() < sampling.top_k && !whole {
            return Ok(None);
        }
        if sampling.top_k > 0 || whole {
            kept.truncate(if sampling.top_k > 0 { sampling.top_k } else { kept.len() });
            to_weights(&mut kept);
            return Ok(Some(sampling.draw_weights(kept, rng)));
        }
        to_weights(&mut kept);
        if sampling.top_p < 1.0 {
            let Some(n) = self.nucleus(sampling, &kept, largest) else { return Ok(None) };
            kept.truncate(n);
            return Ok(Some(sampling.draw_nucleus(kept, rng)));
        }
        if sampling.min_p > 0.0 {
            // Complete if the last one is too unlikely.
            let beyond = kept.last().is_some_and(|k| k.1 < f64::from(sampling.min_p));
            return Ok(beyond.then(|| sampling.draw_nucleus(kept, rng)));
        }
        Ok(self.walk(sampling, &kept, largest, rng))
    }

    /// Tokens with their logits after a penalty: all that come before any other.
    fn known(&self, sampling: &Sampling) -> Vec<(u32, f32)> {
        let listed = self.ids.iter().copied().zip(self.values.iter().copied());
        if self.seen.is_empty() {
            return listed.collect();
        }
        let changed = |id: u32| self.seen.binary_search_by_key(&id, |s| s.0).is_ok();
        let mut known: Vec<(u32, f32)> = listed.filter(|&(id, _)| !changed(id)).collect();
        let all = self.values.len() == self.tokens;
        let (last, last_id) = (self.values[self.values.len() - 1], self.ids[self.ids.len() - 1]);
        // Those that are not listed are smaller than the last, or equal with a higher id; zeros of both signs are equal there
        // and not here.
        let before = |id: u32, x: f32| x > last || (x == last && x != 0.0 && id <= last_id);
        let penalised = self.seen.iter().map(|&(id, x)| (id, sampling.penalised(x)));
        known.extend(penalised.filter(|&(id, x)| all || before(id, x)));
        known
    }

    /// The weight of all tokens after a penalty, relative to the logit (over the temperature) `largest`, and the bound of
    /// its error.
    fn all(&self, sampling: &Sampling, largest: f64) -> Option<(f64, f64)> {
        let by = f64::from(sampling.temperature);
        let weight = |x: f32| (f64::from(x) / by - largest).exp();
        let before = self.mass? * weight(self.values[0]);
        let moved: f64 = self.seen.iter().map(|&(_, x)| weight(sampling.penalised(x)) - weight(x)).sum();
        Some((before + moved, before * MASS_ERROR))
    }

    /// How many of `kept` top-p keeps.
    fn nucleus(&self, sampling: &Sampling, kept: &[(u32, f64)], largest: f64) -> Option<usize> {
        let (all, error) = self.all(sampling, largest)?;
        let top_p = f64::from(sampling.top_p);
        let mut sum = 0.0;
        for (n, &(_, weight)) in kept.iter().enumerate() {
            // The token that crosses the limit is kept, and so is the first.
            if n > 0 && sum >= top_p * (all + error) {
                return Some(n);
            }
            if n > 0 && (sum > top_p * (all - error) || !sum.is_finite() || !all.is_finite()) {
                return None;
            }
            sum += weight;
        }
        (sum >= top_p * (all + error)).then_some(kept.len())
    }

    /// Draws from all tokens where the random point falls on one that is known.
    fn walk(&self, sampling: &Sampling, kept: &[(u32, f64)], largest: f64, rng: &mut Rng) -> Option<u32> {
        let (all, error) = self.all(sampling, largest)?;
        let mut next = *rng;
        let point = next.uniform() * all;
        let mut sum = 0.0;
        for &(id, weight) in kept {
            // On this token for certain, or perhaps.
            if point + error < sum + weight {
                let certain = sum == 0.0 || point - error > sum;
                return certain.then(|| {
                    *rng = next;
                    id
                });
            }
            sum += weight;
        }
        None
    }
}

#[cfg(test)]
mod tests;
