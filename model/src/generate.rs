//! Text generation: prefill, then one token at a time, for one prompt or a left-padded batch.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use engine::profile::{Scope, phase};
use engine::{DType, Rng, Tensor, no_grad};

use crate::candidates::Logits;
use crate::error::{Error, Result};
use crate::llama::{Cache, Llama, Places};
use crate::sample::Sampling;
use crate::tokenizer::{Detokenizer, Tokenizer};

/// When to stop and how to choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most tokens to write.
    pub max_new_tokens: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Start of the random stream; sequence `i` of a batch uses its own stream, so a prompt gives the same
    /// text alone and in a batch.
    pub seed: u64,
    /// Tokens that end a sequence; they are not part of the text.
    pub stop_tokens: Vec<u32>,
    /// Texts that end a sequence; the text is cut before them.
    pub stop: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            sampling: Sampling::default(),
            seed: 0,
            stop_tokens: Vec::new(),
            stop: Vec::new(),
        }
    }
}

/// A prompt, embedded.
pub struct Prompt {
    /// Embeddings `[1, n, hidden]`, image features merged.
    pub embeds: Tensor,
    /// The ids behind them, for the repetition penalty.
    pub ids: Vec<u32>,
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token.
    StopToken(u32),
    /// A stop text.
    StopText(String),
    /// The token limit.
    Length,
    /// The caller asked for it.
    Cancelled,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Generation {
    /// New ids, without the stop token.
    pub ids: Vec<u32>,
    /// Their text, cut at a stop text; special tokens are left out.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// Where the time of a call went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Prompt tokens, padding included.
    pub prompt_tokens: usize,
    /// From the start of the call to the first token.
    pub prefill: Duration,
    /// Decode steps after the first token.
    pub decode_steps: usize,
    /// Their time.
    pub decode: Duration,
}

impl Timings {
    /// Prompt tokens a second.
    pub fn prefill_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill.as_secs_f64()
    }

    /// New tokens a second after the first, per sequence; `None` if there was only one.
    pub fn decode_rate(&self) -> Option<f64> {
        (self.decode_steps > 0).then(|| self.decode_steps as f64 / self.decode.as_secs_f64())
    }
}

/// Text of one sequence as it grows: holds back what might become a stop text.
struct Writer<'a> {
    detokenizer: Option<Detokenizer<'a>>,
    stop: &'a [String],
    text: String,
    /// Bytes of `text` that were given out.
    given: usize,
}

impl<'a> Writer<'a> {
    fn new(tokenizer: Option<&'a Tokenizer>, stop: &'a [String]) -> Self {
        Self { detokenizer: tokenizer.map(|t| t.stream(true)), stop, text: String::new(), given: 0 }
    }

    fn push(&mut self, id: u32) -> Result<Option<String>> {
        if let Some(detokenizer) = &mut self.detokenizer {
            let piece = detokenizer.push(id)?;
            self.text.push_str(&piece);
        }
        Ok(self.cut())
    }

    /// Cuts at the first stop text, if one is there.
    fn cut(&mut self) -> Option<String> {
        let found =
            self.stop.iter().filter_map(|s| self.text.find(s.as_str()).map(|at| (at, s))).min_by_key(|f| f.0);
        let (at, stop) = found?;
        self.text.truncate(at);
        Some(stop.clone())
    }

    /// What can be shown: all but a tail that begins a stop text.
    fn ready(&mut self) -> &str {
        let held = self
            .stop
            .iter()
            .flat_map(|s| s.char_indices().map(|(i, _)| &s[..i]).filter(|p| !p.is_empty()))
            .filter(|p| self.text.ends_with(p))
            .map(str::len)
            .max()
            .unwrap_or(0);
        let from = self.given;
        self.given = (self.text.len() - held).max(from);
        &self.text[from..self.given]
    }

    fn finish(&mut self) -> Option<String> {
        if let Some(detokenizer) = self.detokenizer.take() {
            self.text.push_str(&detokenizer.finish());
        }
        self.cut()
    }
}

/// Writes answers to all prompts at once. `on_text(i, piece)` sees the text of sequence `i` as it grows and
/// can end the call. Shorter prompts are padded on the left and masked: each sequence gets the tokens that
/// it would get alone. Without a tokenizer there are ids but no text; with one, rows of the head beyond its
/// vocabulary (padding of the matrix) are never chosen.
pub fn generate(
    model: &Llama,
    tokenizer: Option<&Tokenizer>,
    prompts: &[Prompt],
    options: &Options,
    on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
) -> Result<(Vec<Generation>, Timings)> {
    options.sampling.validate()?;
    if let Some(i) = options.stop.iter().position(String::is_empty) {
        return Err(Error::Input(format!("stop text {i} is empty: it would end every answer at once")));
    }
    if prompts.is_empty() || options.max_new_tokens == 0 {
        let empty = Generation { ids: Vec::new(), text: String::new(), finish: Finish::Length };
        return Ok((vec![empty; prompts.len()], Timings::default()));
    }
    no_grad(|| {
        let prefill = phase("prefill");
        Run::start(model, tokenizer, prompts, options)?.finish(prefill, on_text)
    })
}

struct Sequence<'a> {
    ids: Vec<u32>,
    seen: Vec<u32>,
    writer: Writer<'a>,
    rng: Rng,
    finish: Option<Finish>,
}

struct Run<'a> {
    model: &'a Llama,
    options: &'a Options,
    /// Ids that may be chosen: those below.
    tokens: usize,
    sequences: Vec<Sequence<'a>>,
    cache: Cache,
    /// Padding of each sequence.
    pads: Vec<usize>,
    /// Mask over the whole cache, if any sequence is padded.
    key_mask: Option<Tensor>,
    /// Type of hidden states.
    dtype: DType,
    /// Of the last position.
    logits: Logits,
    started: Instant,
    timings: Timings,
}

impl<'a> Run<'a> {
    fn start(
        model: &'a Llama,
        tokenizer: Option<&'a Tokenizer>,
        prompts: &[Prompt],
        options: &'a Options,
    ) -> Result<Self> {
        let started = Instant::now();
        let device = model.device();
        let h = model.config().hidden_size;
        let lengths: Vec<usize> = prompts.iter().map(|p| p.embeds.dim(1)).collect::<engine::Result<_>>()?;
        if let Some(i) = lengths.iter().position(|&n| n == 0) {
            return Err(Error::Input(format!("prompt {i} is empty; give at least one token")));
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let limit = model.config().max_position_embeddings;
        if longest >= limit {
            return Err(Error::Input(format!(
                "the prompt has {longest} tokens; with one new token that exceeds the model's {limit} positions (max_position_embeddings): shorten the prompt or use smaller images"
            )));
        }
        let capacity = longest.saturating_add(options.max_new_tokens).min(limit);
        let batch = prompts.len();
        let dtype = prompts[0].embeds.dtype();
        let pads: Vec<usize> = lengths.iter().map(|n| longest - n).collect();
        let mut cache = Cache::new(model.config(), batch, capacity, model.cache_dtype(dtype), device)?;
        let (embeds, places, key_mask) = if batch == 1 {
            (prompts[0].embeds.clone(), Places::from(0, 1, longest, device)?, None)
        } else {
            let embeds = Tensor::zeros(&[batch, longest, h], dtype, device)?;
            for (i, (prompt, &pad)) in prompts.iter().zip(&pads).enumerate() {
                embeds.narrow(0, i, 1)?.narrow(1, pad, lengths[i])?.write(&prompt.embeds)?;
            }
            let grid = |f: &dyn Fn(usize, usize) -> u32, n: usize| -> Vec<u32> {
                pads.iter().flat_map(|&pad| (0..n).map(move |i| f(i, pad))).collect()
            };
            let positions = grid(&|i, pad| i.saturating_sub(pad) as u32, longest);
            let mask: Vec<u8> =
                grid(&|i, pad| u32::from(i >= pad), capacity).iter().map(|&m| m as u8).collect();
            let mask = Tensor::from_slice(&mask, &[batch, capacity], device)?;
            let places = Places {
                positions: Tensor::from_slice(&positions, &[batch, longest], device)?,
                key_mask: Some(mask.narrow(1, 0, longest)?),
            };
            (embeds, places, Some(mask))
        };
        let hidden = model.forward(&embeds, &places, Some(&mut cache))?.narrow(1, longest - 1, 1)?;
        let sequences: Vec<_> = prompts
            .iter()
            .map(|prompt| Sequence {
                ids: Vec::new(),
                seen: prompt.ids.clone(),
                writer: Writer::new(tokenizer, &options.stop),
                rng: Rng::new(options.seed),
                finish: None,
            })
            .collect();
        let timings = Timings { prompt_tokens: batch * longest, ..Timings::default() };
        let vocab = model.config().vocab_size;
        let tokens = tokenizer.map_or(vocab, |t| t.vocab_size().min(vocab));
        let seen: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt.ids[..]).collect();
        let logits = Logits::new(&model.logits(&hidden)?, tokens, &options.sampling, &seen)?;
        let dtype = hidden.dtype();
        Ok(Self { model, options, tokens, sequences, cache, pads, key_mask, dtype, logits, started, timings })
    }

    fn finish(
        mut self,
        prefill: Scope,
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<(Vec<Generation>, Timings)> {
        let mut next = self.choose(on_text)?;
        drop(prefill);
        self.timings.prefill = self.started.elapsed();
        let since = Instant::now();
        while self.sequences.iter().any(|s| s.finish.is_none()) {
            let _phase = phase("decode");
            // Nothing but the cache lives from one step to the next: each finds the same memory free.
            self.model.device().step("decode", || self.step(&next))?;
            self.timings.decode_steps += 1;
            next = self.choose(on_text)?;
        }
        self.timings.decode = since.elapsed();
        let generations = self
            .sequences
            .into_iter()
            .map(|s| Generation {
                ids: s.ids,
                text: s.writer.text,
                finish: s.finish.unwrap_or(Finish::Length),
            })
            .collect();
        Ok((generations, self.timings))
    }

    /// Chooses a token for every sequence that goes on, and says which were chosen.
    fn choose(&mut self, on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>) -> Result<Vec<u32>> {
        let room = self.model.config().max_position_embeddings - self.cache.len();
        let mut next = vec![0; self.sequences.len()];
        let mut cancelled = false;
        for (i, sequence) in self.sequences.iter_mut().enumerate() {
            if sequence.finish.is_some() {
                continue;
            }
            let id = self.logits.choose(i, &self.options.sampling, &sequence.seen, &mut sequence.rng)?;
            next[i] = id;
            if self.options.stop_tokens.contains(&id) {
                sequence.finish = Some(Finish::StopToken(id));
            } else {
                sequence.ids.push(id);
                sequence.seen.push(id);
                if let Some(stop) = sequence.writer.push(id)? {
                    sequence.finish = Some(Finish::StopText(stop));
                } else if sequence.ids.len() == self.options.max_new_tokens || room == 0 {
                    sequence.finish = Some(Finish::Length);
                }
            }
            if sequence.finish.is_some() {
                if let Some(stop) = sequence.writer.finish() {
                    sequence.finish = Some(Finish::StopText(stop));
                }
                let writer = &mut sequence.writer;
                let rest = writer.given.min(writer.text.len());
                cancelled |= on_text(i, &writer.text[rest..]).is_break();
                writer.given = writer.text.len();
            } else {
                let piece = sequence.writer.ready();
                if !piece.is_empty() {
                    cancelled |= on_text(i, piece).is_break();
                }
            }
        }
        if cancelled {
            for sequence in &mut self.sequences {
                sequence.finish.get_or_insert(Finish::Cancelled);
            }
        }
        Ok(next)
    }

    /// Feeds the chosen tokens, and reads what the choice of the next needs.
    fn step(&mut self, next: &[u32]) -> Result<()> {
        let device = self.model.device();
        let batch = next.len();
        let seen = self.cache.len();
        // Before anything is launched: what is uploaded to memory that a launch has used must wait for it.
        let positions: Vec<u32> = self.pads.iter().map(|pad| (seen - pad) as u32).collect();
        let places = Places {
            positions: Tensor::from_slice(&positions, &[batch, 1], device)?,
            key_mask: self.key_mask.as_ref().map(|m| m.narrow(1, 0, seen + 1)).transpose()?,
        };
        let embeds = self.model.embed(next, batch)?.to_dtype(self.dtype)?;
        let hidden = self.model.forward(&embeds, &places, Some(&mut self.cache))?;
        let seen: Vec<&[u32]> = self.sequences.iter().map(|s| &s.seen[..]).collect();
        self.logits = Logits::new(&self.model.logits(&hidden)?, self.tokens, &self.options.sampling, &seen)?;
        Ok(())
    }
}
