//! The Llama decoder (Touvron et al. 2023, arXiv 2302.13971): SmolLM2, and the text half of SmolVLM.

use std::sync::Arc;

use engine::ops::RopeKind;
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

    /// Appends to layer `i` and returns views of all its keys and values.
    fn append(&self, i: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let new = k.dim(1)?;
        let (keys, values) = &self.layers[i];
        keys.narrow(1, self.len, new)?.write(k)?;
        values.narrow(1, self.len, new)?.write(v)?;
        Ok((keys.narrow(1, 0, self.len + new)?, values.narrow(1, 0, self.len + new)?))
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
        let mut x = embeds.clone();
        let few = embeds.dim(0)? * new <= FEW_ROWS;
        for (i, layer) in self.layers.iter().enumerate() {
            x = match &cache {
                None if self.checkpointing => {
                    let (layer, places) = (layer.clone(), places.clone());
                    checkpoint(&[&x], move |x| {
                        layer.forward(&x[0], &places, None, None).map_err(into_engine)
                    })?
                }
                _ => {
                    let next = few.then(|| self.layers.get(i + 1).map_or(vec![&self.head], |l| l.first()));
                    layer.forward(&x, places, cache.as_deref(), next.as_deref())?
                }
            };
            stage(|| format!("text.layer{i}"), &x);
        }
        if let Some(cache) = &mut cache {
            cache.len += new;
        }
        let x = self.norm.forward(&x)?;
        stage(|| "text.norm".into(), &x);
        Ok(x)
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

    /// With `next`, the linear layers that come after this one, each product first says which two follow it: while small
    /// operations run on one thread the others can fetch their weights.
    fn forward(
        &self,
        x: &Tensor,
        places: &Places,
        cache: Option<&Cache>,
        next: Option<&[&Linear]>,
    ) -> Result<Tensor> {
        let _module = module(&self.path);
        let i = self.index;
        let mlp = next.map(|_| &self.mlp);
        let normed = self.input_layernorm.forward(x)?;
        stage(|| format!("text.layer{i}.input_layernorm"), &normed);
        let attended = self.attention.forward(&normed, places, cache, i, mlp)?;
        stage(|| format!("text.layer{i}.attention"), &attended);
        let x = x.add(&attended)?;
        let fed = self.mlp.forward(&self.post_attention_layernorm.forward(&x)?, next)?;
        stage(|| format!("text.layer{i}.mlp"), &fed);
        Ok(x.add(&fed)?)
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
        let q = split(&q, self.heads)?.rope(&places.positions, self.theta, self.rope)?;
        let k = split(&k, self.kv_heads)?.rope(&places.positions, self.theta, self.rope)?;
        let v = split(&v, self.kv_heads)?;
        // The kernel works in the compute type even where the residual stream is wider (spec smolvlm §7).
        let kernel = self.o.compute.unwrap_or(x.dtype());
        let (q, k, v) = (q.to_dtype(kernel)?, k.to_dtype(kernel)?, v.to_dtype(kernel)?);
        let (k, v) = match cache {
            Some(cache) => cache.append(layer, &k, &v)?,
            None => (k, v),
        };
        let scale = (d as f32).sqrt().recip();
        let y = q.attention(&k, &v, places.key_mask.as_ref(), scale, true)?;
        if let Some(mlp) = next {
            Linear::come_next(&[&mlp.gate, &mlp.up, &mlp.down]);
        }
        Ok(self.o.forward(&y.reshape(&[b, s, self.heads * d])?)?.to_dtype(x.dtype())?)
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
