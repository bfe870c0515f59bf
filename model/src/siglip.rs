//! The SigLIP vision tower (Zhai et al. 2023, arXiv 2303.15343) as Idefics3 uses it: no class token, no
//! pooling head.

use std::sync::Arc;

use engine::ops::GeluKind;
use engine::profile::module;
use engine::{DType, Tensor, checkpoint};

use crate::config::VisionConfig;
use crate::error::{Error, Result};
use crate::loader::{Init, Loader};
use crate::nn::{INIT_STD, LayerNorm, Linear};
use crate::stage::stage;

/// The tower.
pub struct Siglip {
    path: String,
    config: VisionConfig,
    /// `[hidden, 3, patch, patch]`
    patch_embedding: Linear4,
    /// `[grid², hidden]`
    position_embedding: Tensor,
    layers: Vec<Arc<Layer>>,
    post_layernorm: LayerNorm,
    /// Recompute each layer in the backward pass instead of keeping its inside.
    pub checkpointing: bool,
}

/// Weight and bias of the patch convolution.
struct Linear4 {
    path: String,
    weight: Tensor,
    bias: Tensor,
    /// As in [`Linear`].
    compute: Option<DType>,
}

struct Layer {
    path: String,
    attention_path: String,
    mlp_path: String,
    index: usize,
    layer_norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

/// Position ids of a tile's patches: `floor(r·g/nh)·g + floor(c·g/nw)` for valid patches, where `nh × nw`
/// counts the valid ones in the first column and row and `g` is the grid; 0 elsewhere. Integer arithmetic,
/// equal to the bucketing of transformers up to 4.54.
pub fn position_ids(valid: &[bool], grid: usize) -> Vec<u32> {
    let nh = (0..grid).filter(|r| valid[r * grid]).count().max(1);
    let nw = valid[..grid].iter().filter(|v| **v).count().max(1);
    let bucket = |i: usize, n: usize| (i * grid / n).min(grid - 1);
    (0..grid * grid)
        .map(|i| if valid[i] { (bucket(i / grid, nh) * grid + bucket(i % grid, nw)) as u32 } else { 0 })
        .collect()
}

impl Siglip {
    /// Tensors below `name` (`model.vision_model`).
    pub fn load(loader: &Loader, config: &VisionConfig, name: &str) -> Result<Self> {
        let (h, p, g) = (config.hidden_size, config.patch_size, config.grid());
        let patch = format!("{name}.embeddings.patch_embedding");
        let weight_dims = [h, config.num_channels, p, p];
        Ok(Self {
            path: name.to_owned(),
            config: config.clone(),
            patch_embedding: Linear4 {
                path: patch.clone(),
                weight: loader.get(&format!("{patch}.weight"), &weight_dims, Init::Normal(INIT_STD))?,
                bias: loader.get(&format!("{patch}.bias"), &[h], Init::Constant(0.0))?,
                compute: loader.compute(),
            },
            position_embedding: loader.get(
                &format!("{name}.embeddings.position_embedding.weight"),
                &[g * g, h],
                Init::Normal(INIT_STD),
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(loader, config, &format!("{name}.encoder.layers.{i}"), i).map(Arc::new))
                .collect::<Result<_>>()?,
            post_layernorm: LayerNorm::load(
                loader,
                &format!("{name}.post_layernorm"),
                h,
                config.layer_norm_eps,
            )?,
            checkpointing: false,
        })
    }

    /// Its linear layers in the order of the forward pass.
    pub fn linears(&self) -> Vec<&Linear> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.out, &l.fc1, &l.fc2]).collect()
    }

    /// Element type of the weights.
    pub fn dtype(&self) -> DType {
        self.position_embedding.dtype()
    }

    /// Features `[tiles, grid², hidden]` of `pixels [tiles, 3, edge, edge]`. `patches` says which patches are
    /// valid, row by row, tile by tile; `None` if all are.
    pub fn forward(&self, pixels: &Tensor, patches: Option<&[bool]>) -> Result<Tensor> {
        let _module = module(&self.path);
        let (edge, g) = (self.config.image_size, self.config.grid());
        let tiles = pixels.dim(0)?;
        if pixels.dims()[1..] != [self.config.num_channels, edge, edge] {
            return Err(Error::Input(format!(
                "pixels of shape {:?}; the tower takes [tiles, {}, {edge}, {edge}]",
                pixels.dims(),
                self.config.num_channels
            )));
        }
        let patches_in = self.patch_embedding.compute.unwrap_or(pixels.dtype());
        let embedded = {
            let _module = module(&self.patch_embedding.path);
            pixels
                .to_dtype(patches_in)?
                .patch_conv(&self.patch_embedding.weight, Some(&self.patch_embedding.bias))?
                .to_dtype(pixels.dtype())?
        };
        let table = self.position_embedding.to_dtype(embedded.dtype())?;
        let (positions, key_mask) = match patches {
            Some(valid) if valid.len() != tiles * g * g => {
                return Err(Error::Input(format!(
                    "a patch mask of {} values for {tiles} tiles of {}",
                    valid.len(),
                    g * g
                )));
            }
            Some(valid) if valid.contains(&false) => {
                let ids: Vec<u32> = valid.chunks(g * g).flat_map(|tile| position_ids(tile, g)).collect();
                let ids = Tensor::from_slice(&ids, &[tiles, g * g], pixels.device())?;
                let mask: Vec<u8> = valid.iter().map(|&v| u8::from(v)).collect();
                (table.embedding(&ids)?, Some(Tensor::from_slice(&mask, &[tiles, g * g], pixels.device())?))
            }
            // Full tiles: the ids are 0, 1, 2, …
            _ => (table, None),
        };
        let mut x = embedded.add(&positions)?;
        stage(|| "vision.embeddings".into(), &x);
        for (i, layer) in self.layers.iter().enumerate() {
            x = if self.checkpointing {
                let (layer, mask) = (layer.clone(), key_mask.clone());
                checkpoint(&[&x], move |x| layer.forward(&x[0], mask.as_ref()))?
            } else {
                layer.forward(&x, key_mask.as_ref())?
            };
            stage(|| format!("vision.layer{i}"), &x);
        }
        let x = self.post_layernorm.forward(&x)?;
        stage(|| "vision.last_hidden_state".into(), &x);
        Ok(x)
    }
}

impl Layer {
    fn load(loader: &Loader, config: &VisionConfig, name: &str, index: usize) -> Result<Self> {
        let (h, inter, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let linear = |part: &str, a, b| Linear::load(loader, &format!("{name}.{part}"), a, b, true);
        Ok(Self {
            path: name.to_owned(),
            attention_path: format!("{name}.self_attn"),
            mlp_path: format!("{name}.mlp"),
            index,
            layer_norm1: LayerNorm::load(loader, &format!("{name}.layer_norm1"), h, eps)?,
            q: linear("self_attn.q_proj", h, h)?,
            k: linear("self_attn.k_proj", h, h)?,
            v: linear("self_attn.v_proj", h, h)?,
            out: linear("self_attn.out_proj", h, h)?,
            layer_norm2: LayerNorm::load(loader, &format!("{name}.layer_norm2"), h, eps)?,
            fc1: linear("mlp.fc1", h, inter)?,
            fc2: linear("mlp.fc2", inter, h)?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, key_mask: Option<&Tensor>) -> engine::Result<Tensor> {
        let _module = module(&self.path);
        let i = self.index;
        let (b, s, h) = (x.dim(0)?, x.dim(1)?, x.dim(2)?);
        let d = h / self.heads;
        let normed = self.layer_norm1.forward(x)?;
        let attention = module(&self.attention_path);
        let split = |y: Tensor| y.reshape(&[b, s, self.heads, d]);
        let (q, k, v) = (
            split(self.q.forward(&normed)?)?,
            split(self.k.forward(&normed)?)?,
            split(self.v.forward(&normed)?)?,
        );
        let kernel = self.out.compute.unwrap_or(x.dtype());
        let (q, k, v) = (q.to_dtype(kernel)?, k.to_dtype(kernel)?, v.to_dtype(kernel)?);
        let y = q.attention(&k, &v, key_mask, (d as f32).sqrt().recip(), false)?;
        let attended = self.out.forward(&y.reshape(&[b, s, h])?)?.to_dtype(x.dtype())?;
        drop(attention);
        stage(|| format!("vision.layer{i}.attention"), &attended);
        let x = x.add(&attended)?;
        let normed = self.layer_norm2.forward(&x)?;
        let mlp = module(&self.mlp_path);
        let fed = self.fc2.forward(&self.fc1.forward(&normed)?.gelu(GeluKind::Tanh)?)?;
        drop(mlp);
        stage(|| format!("vision.layer{i}.mlp"), &fed);
        x.add(&fed)
    }
}
