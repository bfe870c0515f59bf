//! An adapter in memory, and putting it on a network.

use std::sync::Arc;

use engine::ops::RopeKind;
use engine::{DType, Device, Rng, Tensor};

use super::{LoraConfig, LoraInit, Target, TargetKind};
use crate::bundle::Network;
use crate::error::{Error, Result};
use crate::nn::{DropoutState, Full, Linear, Lora, salt};

/// What an adapter holds for a layer.
#[derive(Clone, Debug)]
pub enum Module {
    /// A low-rank term.
    Lora(Arc<Lora>),
    /// A weight of its own.
    Full(Arc<Full>),
}

/// A trained or trainable adapter of a network. Several can be kept in memory for one network and be switched from
/// request to request by [`Network::attach`]; their terms stay beside the weights.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// How it was made.
    pub config: LoraConfig,
    /// Its layers, by path, in the order of the forward pass.
    pub modules: Vec<(String, Module)>,
    /// What was odd but harmless in its files.
    pub warnings: Vec<String>,
    pub(super) dropout: Arc<DropoutState>,
}

impl Adapter {
    /// A fresh adapter of `network` whose factors are f32 leaves of the tape. The same seed gives the same values on
    /// every machine, layer by layer.
    ///
    /// # Errors
    /// If the configuration finds no layers, or asks to train a quantised layer whole.
    pub fn new(config: LoraConfig, network: &Network, seed: u64) -> Result<Self> {
        network.in_halves()?;
        let layers = network.linears();
        let targets = config.targets(layers.iter().map(|l| (l.path.as_str(), l.weight.dims())))?;
        let dropout = DropoutState::new();
        let mut modules = Vec::with_capacity(targets.len());
        for target in targets {
            let layer = layer(&layers, &target.path)?;
            let mut rng = Rng::new(seed ^ salt(&target.path));
            let module = match target.kind {
                TargetKind::Lora { rank, .. } => {
                    let a = draw(&config, rank, target.dims[1], &mut rng, network.device())?;
                    let b = Tensor::zeros(&[target.dims[0], rank], DType::F32, network.device())?;
                    lora(&config, &target, layer, [a, b], None, true, &dropout)?
                }
                TargetKind::Full => {
                    if matches!(layer.weight, crate::nn::Weight::Quantized(_)) {
                        return Err(Error::Input(format!(
                            "`modules_to_save`: {} is quantised and cannot be trained whole; leave it out of the quantisation",
                            target.path
                        )));
                    }
                    let own = |t: &Tensor| Ok::<_, Error>(t.detach().to_dtype(DType::F32)?.copy()?.tracked());
                    let weight = own(&layer.weight.to_dense(DType::F32)?)?;
                    Module::Full(Arc::new(Full { weight, bias: layer.bias.as_ref().map(own).transpose()? }))
                }
            };
            modules.push((target.path, module));
        }
        Ok(Self { config, modules, warnings: Vec::new(), dropout })
    }

    /// The seed that all its dropouts share.
    pub fn dropout(&self) -> &Arc<DropoutState> {
        &self.dropout
    }

    /// Every tensor under its name in `adapter_model.safetensors`, in the order of the forward pass.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for (path, module) in &self.modules {
            let mut push =
                |name: &str, t: &Tensor| all.push((format!("base_model.model.{path}.{name}"), t.clone()));
            match module {
                Module::Lora(lora) => {
                    push("lora_A.weight", &lora.a);
                    push("lora_B.weight", &lora.b);
                    if let Some(dora) = &lora.dora {
                        push("lora_magnitude_vector", &dora.magnitude);
                    }
                }
                Module::Full(full) => {
                    push("weight", &full.weight);
                    if let Some(bias) = &full.bias {
                        push("bias", bias);
                    }
                }
            }
        }
        all
    }

    /// Number of its parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|(_, t)| t.count()).sum()
    }
}

impl Network {
    /// Where it lives.
    pub fn device(&self) -> &Device {
        self.decoder().device()
    }

    /// Adapters are made for rows of q and k in the order of Hugging Face files; GGUF has another.
    pub(super) fn in_halves(&self) -> Result<()> {
        if self.decoder().rope() == RopeKind::Half {
            return Ok(());
        }
        Err(Error::Input(
            "adapters need a model in Hugging Face layout, GGUF orders the rows of q and k otherwise: \
             make a folder of it with `roentgen convert`"
                .into(),
        ))
    }

    /// Puts an adapter on the layers that it belongs to and takes any other off. Nothing is merged or copied.
    ///
    /// # Errors
    /// If the adapter was made for another model; nothing has changed then.
    pub fn attach(&self, adapter: &Adapter) -> Result<()> {
        let layers = self.linears();
        let mut found = Vec::with_capacity(adapter.modules.len());
        for (path, module) in &adapter.modules {
            let layer = layer(&layers, path)?;
            let [out, inner] = layer.weight.dims();
            let own = match module {
                Module::Lora(lora) => [lora.b.dims()[0], lora.a.dims()[1]],
                Module::Full(full) => [full.weight.dims()[0], full.weight.dims()[1]],
            };
            if own != [out, inner] {
                return Err(Error::Input(format!(
                    "the adapter's part for {path} is made for {own:?}, the layer is {:?}: it belongs to another model",
                    [out, inner]
                )));
            }
            found.push((layer, module));
        }
        self.detach();
        for (layer, module) in found {
            match module {
                Module::Lora(lora) => layer.attach(Some(lora.clone())),
                Module::Full(full) => layer.attach(Some(full.clone())),
            }
        }
        Ok(())
    }

    /// Takes any adapter off.
    pub fn detach(&self) {
        for layer in self.linears() {
            layer.attach(None::<Arc<Lora>>);
        }
    }
}

pub(super) fn layer<'a>(layers: &[&'a Linear], path: &str) -> Result<&'a Linear> {
    layers.iter().copied().find(|l| l.path == path).ok_or_else(|| {
        Error::Input(format!("the adapter has a part for {path}, which this model does not have"))
    })
}

/// A term of `layer` from its factors, tracked or not.
pub(super) fn lora(
    config: &LoraConfig,
    target: &Target,
    layer: &Linear,
    factors: [Tensor; 2],
    magnitude: Option<Tensor>,
    tracked: bool,
    dropout: &Arc<DropoutState>,
) -> Result<Module> {
    let TargetKind::Lora { scale, dora, .. } = target.kind else {
        return Err(Error::Input(format!("{} is no low-rank term", target.path)));
    };
    let leaf = |t: Tensor| if tracked { t.tracked() } else { t };
    let mut lora = Lora::new(&target.path, factors.map(leaf), scale, config.lora_dropout as f32, dropout);
    if dora {
        lora = lora.with_magnitude(&layer.weight, magnitude, tracked)?;
    }
    Ok(Module::Lora(Arc::new(lora)))
}

fn draw(config: &LoraConfig, rank: usize, inner: usize, rng: &mut Rng, device: &Device) -> Result<Tensor> {
    Ok(match config.init {
        LoraInit::Gaussian => Tensor::randn(&[rank, inner], 1.0 / rank as f32, DType::F32, rng, device)?,
        LoraInit::Kaiming => {
            let bound = (inner as f64).sqrt().recip();
            let values: Vec<f32> =
                (0..rank * inner).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
            Tensor::from_slice(&values, &[rank, inner], device)?
        }
    })
}
