//! Where a model's tensors come from: a weight file, or a seeded generator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use engine::memory::tagged;
use engine::weights::{FileDType, Weights};
use engine::{DType, Device, Progress, QuantConfig, Quantized, Rng, Tensor};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::nn::{INIT_STD, Weight};
use crate::quantize;

enum Source {
    File { weights: Arc<Weights>, rename: Option<fn(&str) -> Option<String>> },
    Random { rng: Mutex<Rng> },
}

/// Values after which a [repeating](Loader::repeating) tensor begins again: a prime, so that no two rows are alike.
pub const PERIOD: usize = 65_521;

/// Gives modules their tensors by name and remembers what it gave.
pub struct Loader {
    source: Source,
    device: Device,
    /// Convert floating tensors to this type; `None` keeps what the file has, except that f16 becomes f32.
    dtype: Option<DType>,
    compute: Option<DType>,
    quantize: Option<(QuantConfig, Vec<String>)>,
    trainable: bool,
    repeating: bool,
    given: Mutex<Vec<(String, Tensor)>>,
    /// Bytes of the file, and those that were read.
    total: u64,
    read: AtomicU64,
}

/// How a tensor is drawn when there is no file.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f32),
    /// One value.
    Constant(f64),
}

impl Loader {
    /// Tensors of a weight file, converted to `dtype` where it is given.
    pub fn from_weights(weights: Arc<Weights>, dtype: Option<DType>, device: &Device) -> Self {
        Self::new(Source::File { weights, rename: None }, dtype, device)
    }

    /// As [`Self::from_weights`], where the file knows a tensor by the name that `rename` gives.
    pub fn renamed(
        weights: Arc<Weights>,
        dtype: Option<DType>,
        device: &Device,
        rename: fn(&str) -> Option<String>,
    ) -> Self {
        Self::new(Source::File { weights, rename: Some(rename) }, dtype, device)
    }

    /// Random tensors: the same for the same seed on every machine.
    pub fn random(seed: u64, dtype: DType, device: &Device) -> Self {
        Self::new(Source::Random { rng: Mutex::new(Rng::new(seed)) }, Some(dtype), device)
    }

    fn new(source: Source, dtype: Option<DType>, device: &Device) -> Self {
        let total = match &source {
            Source::File { weights, .. } => weights.total_bytes() as u64,
            Source::Random { .. } => 0,
        };
        Self {
            source,
            device: device.clone(),
            dtype,
            compute: None,
            quantize: None,
            trainable: false,
            repeating: false,
            given: Mutex::default(),
            total,
            read: AtomicU64::new(0),
        }
    }

    /// Makes every tensor given from here on a leaf of the tape, with memory of its own.
    #[must_use]
    pub fn trainable(mut self) -> Self {
        self.trainable = true;
        self
    }

    /// Lets large random tensors repeat [`PERIOD`] values: for measurements, where drawing billions of deviates would
    /// take longer than what is measured.
    #[must_use]
    pub fn repeating(mut self) -> Self {
        self.repeating = true;
        self
    }

    /// Lets linear layers, the patch convolution and attention multiply in `dtype` while the residual stream keeps
    /// its own: the bf16 products over an f32 stream of QLoRA's recipe (spec smolvlm §7).
    #[must_use]
    pub fn computing_in(mut self, dtype: DType) -> Self {
        self.compute = Some(dtype);
        self
    }

    /// The type that layers multiply in, where it is not that of their input.
    pub fn compute(&self) -> Option<DType> {
        self.compute
    }

    /// Quantises the weights of linear layers as they are read, one at a time, but for the modules that
    /// [`skips`](quantize::skips) finds in `skip`. Weights that the file has in 4 bits already stay so.
    #[must_use]
    pub fn quantized(mut self, config: QuantConfig, skip: Vec<String>) -> Self {
        self.quantize = Some((config, skip));
        self
    }

    /// Has the device make ready what this model needed in earlier processes.
    pub fn prepare(&self, config: &Config) {
        let Self { dtype, compute, quantize, trainable, .. } = self;
        self.device.prepare(&format!("{config:?} {dtype:?} {compute:?} {quantize:?} {trainable}"));
    }

    /// Tells who listens how much of the file was read.
    fn tell(&self, bytes: usize) {
        let done = self.read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        // That it is over is said at the end: a tensor may be read twice.
        let done = done.min(self.total.saturating_sub(1));
        self.device.tell(Progress::Weights { done, total: self.total });
    }

    /// Every tensor given so far, with its name, in order.
    pub fn given(&self) -> Vec<(String, Tensor)> {
        self.given.lock().unwrap().clone()
    }

    /// The device that tensors are put on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// True if the file has the tensor; always true without a file.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::File { weights, rename } => match rename {
                Some(rename) => rename(name).is_some_and(|n| weights.get(&n).is_some()),
                None => weights.get(name).is_some(),
            },
            Source::Random { .. } => true,
        }
    }

    /// The tensor `name`, which must have the shape `dims`.
    pub fn get(&self, name: &str, dims: &[usize], init: Init) -> Result<Tensor> {
        self.get_in(name, dims, init, self.dtype)
    }

    fn get_in(&self, name: &str, dims: &[usize], init: Init, dtype: Option<DType>) -> Result<Tensor> {
        let tensor = self.fetch(name, dims, init, dtype)?;
        let tensor = if self.trainable { tensor.tracked() } else { tensor };
        self.given.lock().unwrap().push((name.to_owned(), tensor.clone()));
        Ok(tensor)
    }

    /// A tensor in `dtype`, or as the file has it.
    fn fetch(&self, name: &str, dims: &[usize], init: Init, dtype: Option<DType>) -> Result<Tensor> {
        tagged("weights", || match &self.source {
            Source::File { weights, rename } => {
                let stored = match rename {
                    Some(rename) => rename(name).unwrap_or_else(|| name.to_owned()),
                    None => name.to_owned(),
                };
                self.read(weights, &stored, dims, dtype)
            }
            Source::Random { rng } => self.draw(&mut rng.lock().unwrap(), dims, init),
        })
    }

    /// The weight `{path}.weight` of a linear layer, `[out, in]`: in 4 bits where the file has it so or
    /// [`Self::quantized`] asks for it, else dense, in the compute type if it is frozen and there is one.
    pub fn linear(&self, path: &str, dims: [usize; 2]) -> Result<Weight> {
        let name = format!("{path}.weight");
        if let Source::File { weights, rename: None } = &self.source
            && quantize::is_quantized(weights, &name)
        {
            let weight = tagged("weights", || quantize::read(weights, &name, &self.device))?;
            self.tell(weights.require(&name)?.range().len());
            let file = || weights.path().display().to_string();
            if weight.dims() != dims {
                let (found, wanted) = (weight.dims().to_vec(), dims.to_vec());
                return Err(Error::Shape { path: file(), name, found, wanted });
            }
            if self.trainable {
                return Err(Error::Input(format!(
                    "{}: `{name}` is quantised and cannot be trained; train an adapter on it, or start from a folder in f32 or bf16",
                    file()
                )));
            }
            return Ok(Weight::Quantized(Arc::new(weight)));
        }
        match &self.quantize {
            Some((config, skip)) if !self.trainable && !quantize::skips(path, skip) => {
                let dense = self.fetch(&name, &dims, Init::Normal(INIT_STD), None)?;
                let weight = tagged("weights", || Quantized::quantize(&dense, config))
                    .map_err(|e| Error::Input(format!("`{name}`: {e}")))?;
                Ok(Weight::Quantized(Arc::new(weight)))
            }
            _ => {
                let dtype = self.compute.filter(|_| !self.trainable).or(self.dtype);
                Ok(Weight::Dense(self.get_in(&name, &dims, Init::Normal(INIT_STD), dtype)?))
            }
        }
    }

    fn draw(&self, rng: &mut Rng, dims: &[usize], init: Init) -> Result<Tensor> {
        let dtype = self.dtype.unwrap_or(DType::F32);
        let count: usize = dims.iter().product();
        Ok(match init {
            Init::Normal(std) if self.repeating && count > PERIOD => {
                let period = Tensor::randn(&[PERIOD], std, dtype, rng, &self.device)?.to_bytes()?;
                let mut bytes = period.repeat(count.div_ceil(PERIOD));
                bytes.truncate(count * dtype.size());
                Tensor::from_bytes(&bytes, dims, dtype, &self.device)?
            }
            Init::Normal(std) => Tensor::randn(dims, std, dtype, rng, &self.device)?,
            Init::Constant(value) => Tensor::full(dims, value, dtype, &self.device)?.copy()?,
        })
    }

    fn read(&self, weights: &Weights, name: &str, dims: &[usize], dtype: Option<DType>) -> Result<Tensor> {
        let entry = weights.require(name)?;
        if entry.shape() != dims {
            return Err(Error::Shape {
                path: entry.path().display().to_string(),
                name: name.into(),
                found: entry.shape().to_vec(),
                wanted: dims.to_vec(),
            });
        }
        let stored = match entry.dtype() {
            FileDType::F32 => Some(DType::F32),
            FileDType::BF16 => Some(DType::BF16),
            FileDType::F16 => Some(DType::F16),
            _ => None,
        };
        let tensor = match (stored, dtype) {
            (Some(stored), _) => {
                let tensor = Tensor::from_mapped(entry.mapping(), entry.range(), dims, stored, &self.device)?;
                match dtype {
                    Some(dtype) if dtype != stored => tensor.to_dtype(dtype)?,
                    // Products take f32 and bf16; bf16 would drop three bits of an f16.
                    None if stored == DType::F16 => tensor.to_dtype(DType::F32)?,
                    _ => tensor,
                }
            }
            // Block-quantised: expand in the file's rows.
            (None, Some(DType::BF16)) => {
                Tensor::from_slice(&entry.to_vec::<half::bf16>()?, dims, &self.device)?
            }
            (None, _) => Tensor::from_slice(&entry.to_f32()?, dims, &self.device)?,
        };
        self.tell(entry.range().len());
        // Training changes weights in place: they need memory of their own.
        Ok(if self.trainable && stored == Some(tensor.dtype()) { tensor.copy()? } else { tensor })
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if self.total > 0 {
            self.device.tell(Progress::Weights { done: self.total, total: self.total });
        }
    }
}

/// First tensor that holds NaN or infinity, with the place, for the error after a model's output was not
/// finite.
pub fn find_not_finite(tensors: &[(String, Tensor)]) -> Result<Option<String>> {
    for (name, tensor) in tensors {
        if let Some(i) = tensor.to_f32_vec()?.iter().position(|x| !x.is_finite()) {
            return Ok(Some(format!(
                "weight `{name}` {:?} holds a value that is not finite at element {i}",
                tensor.dims()
            )));
        }
    }
    Ok(None)
}
