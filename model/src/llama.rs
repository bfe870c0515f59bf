//! The Llama decoder (Touvron et al. 2023, arXiv 2302.13971): SmolLM2, and the text half of SmolVLM.

use std::sync::Arc;

use engine::ops::{RopeKind, RopeWrite};
use engine::profile::module;
use engine::{DType, Device, Tensor, checkpoint};

use crate::config::TextConfig;
use crate::error::{Error, Result};
use crate::loader::{Init, Loader};
use crate::nn::{INIT_STD, Linear, RmsNorm, Weight};
use crate::stage::stage;

/// Names of a decoder's tensors in a file.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Before `embed_tokens`, `layers.{i}` and `norm`.
    pub prefix: &'static str,
    /// Of the head.
    pub head: &'static str,
}

impl Names {
    /// A decoder alone.
    pub const LLAMA: Self = Self { prefix: "model", head: "lm_head" };
    /// The decoder of SmolVLM.
    pub const SMOLVLM: Self = Self { prefix: "model.text_model", head: "lm_head" };
}

/// The decoder with its embedding and head.
pub struct Llama {
    path: &'static str,
    config: TextConfig,
    rope: RopeKind,
    /// `[vocabulary, hidden]`
    pub embed_tokens: Tensor,
    layers: Vec<Arc<Layer>>,
    norm: RmsNorm,
    head: Linear,
    /// Recompute each layer in the backward pass instead of keeping its inside.
    pub checkpointing: bool,
}

struct Layer {
    path: String,
    index: usize,
    input_layernorm: RmsNorm,
    attention: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

struct Attention {
    path: String,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    theta: f32,
    rope: RopeKind,
}

struct Mlp {
    path: String,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Keys and values of the tokens seen so far, per layer `[batch, capacity, kv heads, head dim]`.
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl Cache {
    /// An empty cache for `capacity` tokens of each of `batch` sequences.
    pub fn new(
        config: &TextConfig,
        batch: usize,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let dims = [batch, capacity, config.num_key_value_heads, config.head_dim];
        let layers = engine::memory::tagged("kv cache", || {
            (0..config.num_hidden_layers)
                .map(|_| Ok((Tensor::zeros(&dims, dtype, device)?, Tensor::zeros(&dims, dtype, device)?)))
                .collect::<Result<_>>()
        })?;
        Ok(Self { layers, len: 0, capacity })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys and values of layer `i`: where the next `new` tokens go, or all of them with those.
    fn part(&self, i: usize, from: usize, new: usize) -> Result<[Tensor; 2]> {
        let (keys, values) = &self.layers[i];
        let len = self.len + new - from;
        Ok([keys.narrow(1, from, len)?, values.narrow(1, from, len)?])
    }
}

/// What a forward pass needs besides the embeddings.
#[derive(Clone)]
pub struct Places {
    /// Position of each token in its sequence, u32 `[batch, new]`.
    pub positions: Tensor,
    /// 1 for keys that may be seen, u8 `[batch, all]` (cached and new); `None` if all may.
    pub key_mask: Option<Tensor>,
}

impl Places {
    /// Positions `start .. start + new` for every sequence, nothing masked.
    pub fn from(start: usize, batch: usize, new: usize, device: &Device) -> Result<Self> {
        let row: Vec<u32> = (start..start + new).map(|p| p as u32).collect();
        let positions = Tensor::from_slice(&row, &[1, new], device)?.expand(&[batch, new])?;
        Ok(Self { positions, key_mask: None })
    }
}

impl Llama {
    /// Loads the decoder. `rope` is [`RopeKind::Half`] for Hugging Face files; GGUF stores the rows of q and
    /// k for [`RopeKind::Interleaved`].
    pub fn load(
        loader: &Loader,
        config: &TextConfig,
        names: Names,
        rope: RopeKind,
        tied: bool,
    ) -> Result<Self> {
        let (h, prefix) = (config.hidden_size, names.prefix);
        let vocab = [config.vocab_size, h];
        let embed_tokens =
            loader.get(&format!("{prefix}.embed_tokens.weight"), &vocab, Init::Normal(INIT_STD))?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(loader, config, &format!("{prefix}.layers.{i}"), i, rope).map(Arc::new))
            .collect::<Result<_>>()?;
        let norm = RmsNorm::load(loader, &format!("{prefix}.norm"), h, config.rms_norm_eps)?;
        let head = if tied {
            Linear::new(names.head, Weight::Dense(embed_tokens.clone()), None, loader.compute())
        } else {
            Linear::load(loader, names.head, h, config.vocab_size, false)?
        };
        Ok(Self {
            path: prefix,
            config: config.clone(),
            rope,
            embed_tokens,
            layers,
            norm,
            head,
            checkpointing: false,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Its linear layers in the order of the forward pass, the head last.
    pub fn linears(&self) -> Vec<&Linear> {
        let layers = self.layers.iter().flat_map(|layer| {
            let (attention, mlp) = (&layer.attention, &layer.mlp);
            [&attention.q, &attention.k, &attention.v, &attention.o, &mlp.gate, &mlp.up, &mlp.down]
        });
        layers.chain([&self.head]).collect()
    }

    /// Type of keys and values where the residual stream is in `stream`.
    pub fn cache_dtype(&self, stream: DType) -> DType {
        self.head.compute.unwrap_or(stream)
    }

    /// Order of the rows of q and k.
    pub fn rope(&self) -> RopeKind {
        self.rope
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        self.embed_tokens.device()
    }

    /// Embeddings `[batch, n, hidden]` of token ids.
    pub fn embed(&self, ids: &[u32], batch: usize) -> Result<Tensor> {
        let _module = module(self.path);
        let n = ids.len() / batch.max(1);
        if ids.len() != batch * n || batch == 0 {
            return Err(Error::Input(format!(
                "{} ids do not make {batch} sequences of one length",
                ids.len()
            )));
        }
        Ok(self.embed_tokens.embedding(&Tensor::from_slice(ids, &[batch, n], self.device())?)?)
    }

    /// Hidden states after the final norm, `[batch, new, hidden]`, from embeddings of that shape. With a
    /// cache the new tokens follow the cached ones.
    pub fn forward(&self, embeds: &Tensor, places: &Places, mut cache: Option<&mut Cache>) -> Result<Tensor> {
        let _module = module(self.path);
        let new = embeds.dim(1)?;
        let seen = cache.as_ref().map_or(0, |c| c.len);
        if let Some(cache) = &cache
            && seen + new > cache.capacity
        {
            return Err(Error::Input(format!(
                "{seen} cached and {new} new tokens exceed the cache of {} tokens",
                cache.capacity
            )));
        }
        if seen + new > self.config.max_position_embeddings {
            return Err(Error::Input(format!(
                "a sequence of {} tokens: the model was made for at most {} (max_position_embeddings); shorten the prompt or the answer",
                seen + new,
                self.config.max_position_embeddings
            )));
        }
        // The residual stream, and what the layer before has for it: the next norm adds it on its way.
        let (mut x, mut fed) = (embeds.clone(), None);
        let few = embeds.dim(0)? * new <= FEW_ROWS;
        for (i, layer) in self.layers.iter().enumerate() {
            if cache.is_none() && self.checkpointing {
                let (layer, places) = (layer.clone(), places.clone());
                // A layer keeps its input: one tensor, so the sum is made within.
                x = checkpoint(&[&x], move |x| {
                    let (x, fed) = layer.forward(&x[0], None, &places, None, None).map_err(into_engine)?;
                    x.add(&fed)
                })?;
                stage(|| format!("text.layer{i}"), &x);
                continue;
            }
            let next = few.then(|| self.layers.get(i + 1).map_or(vec![&self.head], |l| l.first()));
            let done = layer.forward(&x, fed.as_ref(), places, cache.as_deref(), next.as_deref())?;
            (x, fed) = (done.0, Some(done.1));
        }
        if let Some(cache) = &mut cache {
            cache.len += new;
        }
        let normed = normed(&self.norm, &x, fed.as_ref(), self.layers.len())?.1;
        stage(|| "text.norm".into(), &normed);
        Ok(normed)
    }

    /// Logits `[…, vocabulary]` of hidden states `[…, hidden]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        if let Some(layer) =
            self.layers.first().filter(|_| hidden.count() <= FEW_ROWS * self.config.hidden_size)
        {
            // Of the next token.
            Linear::come_next(&layer.first());
        }
        let logits = self.head.forward(hidden)?;
        stage(|| "logits".into(), &logits);
        Ok(logits)
    }
}

/// Rows up to which products wait for their weights rather than for arithmetic.
const FEW_ROWS: usize = 8;

/// The residual stream after layer `layer − 1`, and its normalisation before what comes next.
fn normed(norm: &RmsNorm, x: &Tensor, fed: Option<&Tensor>, layer: usize) -> Result<(Tensor, Tensor)> {
    let (x, normed) = norm.after(x, fed)?;
    if fed.is_some() {
        stage(|| format!("text.layer{}", layer - 1), &x);
    }
    Ok((x, normed))
}

fn into_engine(error: Error) -> engine::Error {
    match error {
        Error::Engine(error) => error,
        other => engine::Error::Autograd(other.to_string()),
    }
}

impl Layer {
    fn load(loader: &Loader, config: &TextConfig, name: &str, index: usize, rope: RopeKind) -> Result<Self> {
        let (h, inter, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let (q, kv) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let attn = format!("{name}.self_attn");
        let mlp = format!("{name}.mlp");
        Ok(Self {
            path: name.to_owned(),
            index,
            input_layernorm: RmsNorm::load(loader, &format!("{name}.input_layernorm"), h, eps)?,
            attention: Attention {
                path: attn.clone(),
                q: Linear::load(loader, &format!("{attn}.q_proj"), h, q, false)?,
                k: Linear::load(loader, &format!("{attn}.k_proj"), h, kv, false)?,
                v: Linear::load(loader, &format!("{attn}.v_proj"), h, kv, false)?,
                o: Linear::load(loader, &format!("{attn}.o_proj"), q, h, false)?,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                theta: config.rope_theta as f32,
                rope,
            },
            post_attention_layernorm: RmsNorm::load(
                loader,
                &format!("{name}.post_attention_layernorm"),
                h,
                eps,
            )?,
            mlp: Mlp {
                path: mlp.clone(),
                gate: Linear::load(loader, &format!("{mlp}.gate_proj"), h, inter, false)?,
                up: Linear::load(loader, &format!("{mlp}.up_proj"), h, inter, false)?,
                down: Linear::load(loader, &format!("{mlp}.down_proj"), inter, h, false)?,
            },
        })
    }

    /// The layers that read its input.
    fn first(&self) -> Vec<&Linear> {
        vec![&self.attention.q, &self.attention.k, &self.attention.v]
    }

    /// From the residual stream `x`, to which `fed` of the layer before is yet to be added, the stream after attention and
    /// what the MLP has for it.
    ///
    /// With `next`, the linear layers that come after this one, each product first says which two follow it: while small
    /// operations run on one thread the others can fetch their weights.
    fn forward(
        &self,
        x: &Tensor,
        fed: Option<&Tensor>,
        places: &Places,
        cache: Option<&Cache>,
        next: Option<&[&Linear]>,
    ) -> Result<(Tensor, Tensor)> {
        let _module = module(&self.path);
        let i = self.index;
        let mlp = next.map(|_| &self.mlp);
        let (x, normed) = normed(&self.input_layernorm, x, fed, i)?;
        stage(|| format!("text.layer{i}.input_layernorm"), &normed);
        let attended = self.attention.forward(&normed, places, cache, i, mlp)?;
        stage(|| format!("text.layer{i}.attention"), &attended);
        let (x, normed) = self.post_attention_layernorm.after(&x, Some(&attended))?;
        let fed = self.mlp.forward(&normed, next)?;
        stage(|| format!("text.layer{i}.mlp"), &fed);
        Ok((x, fed))
    }
}

impl Attention {
    fn forward(
        &self,
        x: &Tensor,
        places: &Places,
        cache: Option<&Cache>,
        layer: usize,
        next: Option<&Mlp>,
    ) -> Result<Tensor> {
        let _module = module(&self.path);
        let (b, s, d) = (x.dim(0)?, x.dim(1)?, self.head_dim);
        let split = |y: &Tensor, heads| y.reshape(&[b, s, heads, d]);
        if let Some(mlp) = next {
            Linear::come_next(&[&self.o, &mlp.gate, &mlp.up]);
        }
        let [q, k, v] = Linear::forward_group([&self.q, &self.k, &self.v], x)?;
        let (q, k, v) = (split(&q, self.heads)?, split(&k, self.kv_heads)?, split(&v, self.kv_heads)?);
        let [q, k, v] = self.rotated([q, k, v], places, cache.map(|cache| (cache, layer)))?;
        let scale = (d as f32).sqrt().recip();
        let y = q.attention(&k, &v, places.key_mask.as_ref(), scale, true)?;
        if let Some(mlp) = next {
            Linear::come_next(&[&mlp.gate, &mlp.up, &mlp.down]);
        }
        Ok(self.o.forward(&y.reshape(&[b, s, self.heads * d])?)?.to_dtype(x.dtype())?)
    }

    /// What the attention kernel takes: q and k rotated; with a cache all keys and values in it, the new ones included.
    fn rotated(
        &self,
        [q, k, v]: [Tensor; 3],
        places: &Places,
        cache: Option<(&Cache, usize)>,
    ) -> Result<[Tensor; 3]> {
        let new = k.dim(1)?;
        // The kernel works in the compute type even where the residual stream is wider (spec smolvlm §7).
        let kernel = self.o.compute.unwrap_or(q.dtype());
        if let Some((cache, layer)) = cache
            && ![&q, &k, &v].iter().any(|x| x.is_tracked())
        {
            let [keys, values] = cache.part(layer, cache.len, new)?;
            let op = RopeWrite { theta: self.theta, kind: self.rope };
            let q = Tensor::rope_write([&q, &k, &v], &places.positions, [&keys, &values], &op)?;
            let [keys, values] = cache.part(layer, 0, new)?;
            return Ok([q.to_dtype(kernel)?, keys, values]);
        }
        let turn = |x: &Tensor| x.rope(&places.positions, self.theta, self.rope)?.to_dtype(kernel);
        let (q, k, v) = (turn(&q)?, turn(&k)?, v.to_dtype(kernel)?);
        let Some((cache, layer)) = cache else { return Ok([q, k, v]) };
        for (to, from) in cache.part(layer, cache.len, new)?.iter().zip([&k, &v]) {
            to.write(from)?;
        }
        let [keys, values] = cache.part(layer, 0, new)?;
        Ok([q, keys, values])
    }
}

impl Mlp {
    fn forward(&self, x: &Tensor, next: Option<&[&Linear]>) -> Result<Tensor> {
        let _module = module(&self.path);
        if let Some(next) = next {
            Linear::come_next(&[&[&self.down], next].concat());
        }
        let [gate, up] = Linear::forward_group([&self.gate, &self.up], x)?;
        let hidden = gate.gated_silu(&up)?;
        Linear::come_next(next.unwrap_or_default());
        Ok(self.down.forward(&hidden)?)
    }
}
