//! Features of images whose tower is frozen: computed once, kept on the disk.
//!
//! Each image goes through the tower by itself, never as part of a batch, so that a feature does not depend on
//! whether it came from the disk.

use std::path::Path;
use std::time::Duration;

use engine::{DType, Device, Tensor, no_grad};
use model::image::Tiles;
use model::smolvlm::SmolVlm;
use sha2::{Digest, Sha256};

use super::store::{Key, Store, Stored};
use crate::error::Result;

/// Features `[tiles, tokens per tile, hidden]` by the key of their tiles.
pub struct Features {
    store: Store,
    /// Of the weights and the element type that made them.
    made_by: Key,
    dtype: DType,
}

impl Features {
    /// Those below `cache` that a tower with these weights makes with activations in `dtype`; `leftover` as in
    /// [`Store::open`].
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new<'t>(
        cache: &Path,
        weights: impl Iterator<Item = &'t (String, Tensor)>,
        dtype: DType,
        leftover: Duration,
    ) -> Result<Self> {
        let mut hash = Sha256::new();
        for (name, tensor) in weights {
            hash.update(name);
            hash.update(tensor.detach().to_bytes()?);
        }
        let made_by = Key::of(&[&hash.finalize(), format!("{dtype:?}").as_bytes()]);
        Ok(Self { store: Store::open(&cache.join("features"), "features", leftover)?, made_by, dtype })
    }

    fn key(&self, tiles: &Key) -> Key {
        Key::of(&[&self.made_by.0, &tiles.0])
    }

    /// What the disk has for the tiles of this key.
    pub fn stored(&self, tiles: &Key) -> Option<Stored> {
        self.store.read(&self.key(tiles))
    }

    /// A tensor of what the disk had; `None` if it is none.
    pub fn tensor(&self, stored: &Stored, device: &Device) -> Option<Tensor> {
        let [tiles, tokens, hidden, _] = stored.dims.map(|d| d as usize);
        Tensor::from_bytes(&stored.bytes, &[tiles, tokens, hidden], self.dtype, device).ok()
    }

    /// Runs the tower and keeps what comes out.
    ///
    /// # Errors
    /// If the tower fails or the disk refuses.
    pub fn compute(&self, model: &SmolVlm, key: &Key, tiles: &Tiles<'_>) -> Result<Tensor> {
        let pixels = Tensor::from_slice(&tiles.normalised(), &tiles.shape(), model.text.device())?;
        let features = no_grad(|| model.image_features_in(self.dtype, &pixels, None))?.detach();
        let dims = features.dims();
        let dims = [dims[0] as u32, dims[1] as u32, dims[2] as u32, 0];
        self.store.write(&self.key(key), dims, &features.to_bytes()?)?;
        Ok(features)
    }
}
