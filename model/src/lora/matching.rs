//! Which layers an adapter belongs to: the rules of PEFT 0.15.2 (`check_target_module_exists`, `get_pattern_key`).

use fancy_regex::Regex;

use super::{LoraConfig, Targets};
use crate::error::{Error, Result};

/// A layer that an adapter changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Path of the module.
    pub path: String,
    /// `[out, in]`
    pub dims: [usize; 2],
    /// How.
    pub kind: TargetKind,
}

/// How a layer is changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TargetKind {
    /// A low-rank term.
    Lora {
        /// Rank.
        rank: usize,
        /// α/r, or α/√r.
        scale: f32,
        /// With a magnitude of the rows.
        dora: bool,
    },
    /// A weight of its own.
    Full,
}

impl Target {
    /// Trained parameters, without the bias of a whole layer.
    pub fn parameters(&self) -> u64 {
        let [out, inner] = self.dims.map(|n| n as u64);
        match self.kind {
            TargetKind::Lora { rank, dora, .. } => rank as u64 * (out + inner) + if dora { out } else { 0 },
            TargetKind::Full => out * inner,
        }
    }
}

/// The output projection, which `"all-linear"` leaves out.
const HEAD: &str = "lm_head";

/// Compiled patterns of a configuration.
struct Rules<'a> {
    config: &'a LoraConfig,
    targets: Rule<'a>,
    excluded: Option<Rule<'a>>,
    layer: Vec<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

enum Rule<'a> {
    Names(&'a [String]),
    Pattern(Box<Regex>),
    AllLinear,
}

fn regex(what: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern)
        .map_err(|e| Error::Input(format!("`{what}`: {pattern:?} is no regular expression: {e}")))
}

/// A match that gives up (a pattern that backtracks without end) is an error, not a "no".
fn matches(regex: &Regex, path: &str) -> Result<bool> {
    regex
        .is_match(path)
        .map_err(|e| Error::Input(format!("the pattern {:?} on {path:?}: {e}", regex.as_str())))
}

fn ends(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// Modules above linear layers that hold nothing else, so that to train them whole is to train their layers.
const ALL_LINEAR: [&str; 4] = ["connector", "modality_projection", "self_attn", "mlp"];

/// Whether `modules_to_save` with `name` takes in the layer at `path`: as PEFT has it, a module is meant whose path has
/// this end, dot or no dot, with all that is below it.
fn whole(path: &str, name: &str) -> bool {
    let above = path.match_indices('.').map(|(at, _)| &path[..at]);
    let above = above.filter(|module| ALL_LINEAR.iter().any(|last| ends(module, last)));
    !name.is_empty() && std::iter::once(path).chain(above).any(|module| module.ends_with(name))
}

impl Rule<'_> {
    fn new<'a>(what: &str, targets: &'a Targets) -> Result<Rule<'a>> {
        Ok(match targets {
            Targets::Names(names) => Rule::Names(names),
            Targets::Pattern(pattern) => Rule::Pattern(Box::new(regex(what, &format!("^(?:{pattern})$"))?)),
            Targets::AllLinear => Rule::AllLinear,
        })
    }

    fn finds(&self, path: &str) -> Result<bool> {
        Ok(match self {
            Self::Names(names) => names.iter().any(|name| ends(path, name)),
            Self::Pattern(pattern) => matches(pattern, path)?,
            Self::AllLinear => !ends(path, HEAD),
        })
    }
}

impl<'a> Rules<'a> {
    fn new(config: &'a LoraConfig) -> Result<Self> {
        let layer = match &config.layers_pattern[..] {
            [] => vec![regex("layers_pattern", r"^.*\.[^.]*\.(\d+)\.")?],
            names => names
                .iter()
                .map(|name| regex("layers_pattern", &format!(r"^.*\.{name}\.(\d+)\.")))
                .collect::<Result<_>>()?,
        };
        let keyed = |what: &str, key: &str| regex(what, &format!(r"^(?:.*\.)?(?:{key})$"));
        Ok(Self {
            config,
            targets: Rule::new("target_modules", &config.target_modules)?,
            excluded: config.exclude_modules.as_ref().map(|e| Rule::new("exclude_modules", e)).transpose()?,
            layer,
            ranks: config
                .rank_pattern
                .iter()
                .map(|(key, r)| Ok((keyed("rank_pattern", key)?, *r)))
                .collect::<Result<_>>()?,
            alphas: config
                .alpha_pattern
                .iter()
                .map(|(key, a)| Ok((keyed("alpha_pattern", key)?, *a)))
                .collect::<Result<_>>()?,
        })
    }

    /// PEFT looks at layer numbers only where targets are given as suffixes.
    fn layer_is_wanted(&self, path: &str) -> Result<bool> {
        let wanted = &self.config.layers_to_transform;
        let exact =
            matches!(&self.config.target_modules, Targets::Names(names) if names.iter().any(|n| n == path));
        if wanted.is_empty() || exact || !matches!(self.targets, Rule::Names(_)) {
            return Ok(true);
        }
        for layer in &self.layer {
            let found = layer
                .captures(path)
                .map_err(|e| Error::Input(format!("the pattern {:?} on {path:?}: {e}", layer.as_str())))?;
            if let Some(number) = found.and_then(|c| c.get(1)?.as_str().parse().ok()) {
                return Ok(wanted.contains(&number));
            }
        }
        Ok(false)
    }

    fn kind(&self, path: &str) -> Result<Option<TargetKind>> {
        let config = self.config;
        if config.modules_to_save.iter().any(|name| whole(path, name)) {
            return Ok(Some(TargetKind::Full));
        }
        if let Some(excluded) = &self.excluded
            && excluded.finds(path)?
        {
            return Ok(None);
        }
        if !self.targets.finds(path)? || !self.layer_is_wanted(path)? {
            return Ok(None);
        }
        let mut rank = config.r;
        for (key, r) in self.ranks.iter().rev() {
            if matches(key, path)? {
                rank = *r;
            }
        }
        let mut alpha = config.lora_alpha;
        for (key, a) in self.alphas.iter().rev() {
            if matches(key, path)? {
                alpha = *a;
            }
        }
        Ok(Some(TargetKind::Lora { rank, scale: config.scale(rank, alpha), dora: config.use_dora }))
    }
}

impl LoraConfig {
    /// The layers that this adapter changes among the linear layers `(path, [out, in])` of a model, in their order.
    ///
    /// # Errors
    /// If a pattern is no regular expression, a name finds nothing that can be changed, or nothing is found at all.
    pub fn targets<'a>(&self, layers: impl Iterator<Item = (&'a str, [usize; 2])>) -> Result<Vec<Target>> {
        let rules = Rules::new(self)?;
        let (mut found, mut paths) = (Vec::new(), Vec::new());
        for (path, dims) in layers {
            paths.push(path);
            if let Some(kind) = rules.kind(path)? {
                found.push(Target { path: path.to_owned(), dims, kind });
            }
        }
        let lost = self.modules_to_save.iter().find(|name| !paths.iter().any(|path| whole(path, name)));
        if let Some(name) = lost {
            return Err(Error::Input(format!(
                "`modules_to_save`: {name:?} is no linear layer of this model and no module of such alone; embeddings and norms cannot be saved whole"
            )));
        }
        if !found.iter().any(|t| matches!(t.kind, TargetKind::Lora { .. })) {
            let example = paths.first().map_or_else(String::new, |path| format!(" (its first is {path})"));
            return Err(Error::Input(format!(
                "`target_modules`: {:?} names no linear layer of this model{example}",
                self.target_modules
            )));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 8] = [
        "model.vision_model.encoder.layers.0.self_attn.q_proj",
        "model.vision_model.encoder.layers.0.self_attn.out_proj",
        "model.connector.modality_projection.proj",
        "model.text_model.layers.0.self_attn.q_proj",
        "model.text_model.layers.0.self_attn.o_proj",
        "model.text_model.layers.1.self_attn.q_proj",
        "model.text_model.layers.11.mlp.up_proj",
        "lm_head",
    ];

    fn found(config: &LoraConfig) -> Vec<usize> {
        let targets = config.targets(PATHS.iter().map(|&p| (p, [4, 4]))).unwrap();
        targets.iter().map(|t| PATHS.iter().position(|&p| p == t.path).unwrap()).collect()
    }

    fn named(names: &[&str]) -> LoraConfig {
        let names = names.iter().map(|&n| n.to_owned()).collect();
        LoraConfig { target_modules: Targets::Names(names), ..LoraConfig::default() }
    }

    #[test]
    fn names_patterns_and_all() {
        assert_eq!(found(&named(&["q_proj"])), [0, 3, 5]);
        assert_eq!(found(&named(&["o_proj"])), [4]);
        assert_eq!(found(&named(&["proj"])), [2]);
        assert_eq!(found(&named(&["lm_head"])), [7]);
        let pattern =
            |p: &str| LoraConfig { target_modules: Targets::Pattern(p.into()), ..LoraConfig::default() };
        assert_eq!(found(&pattern(r".*text_model.*\.q_proj")), [3, 5]);
        assert_eq!(found(&pattern(r"^(?!.*vision).*q_proj$")), [3, 5]);
        assert_eq!(found(&pattern("lm_head|.*up_proj")), [6, 7]);
        let all = LoraConfig { target_modules: Targets::AllLinear, ..LoraConfig::default() };
        assert_eq!(found(&all), [0, 1, 2, 3, 4, 5, 6]);
        let error = pattern("q_proj").targets(PATHS.iter().map(|&p| (p, [4, 4]))).unwrap_err();
        assert!(error.to_string().contains("names no linear layer"), "{error}");
        let error = pattern("(").targets(PATHS.iter().map(|&p| (p, [4, 4]))).unwrap_err();
        assert!(error.to_string().contains("no regular expression"), "{error}");
    }

    #[test]
    fn exclusions_layers_and_whole_modules() {
        let excluded = Some(Targets::Pattern(".*vision.*".into()));
        assert_eq!(found(&LoraConfig { exclude_modules: excluded, ..named(&["q_proj"]) }), [3, 5]);
        let layers = LoraConfig { layers_to_transform: vec![1], ..named(&["q_proj", "up_proj"]) };
        assert_eq!(found(&layers), [5]);
        let pattern = LoraConfig { layers_pattern: vec!["encoder.layers".into()], ..layers };
        assert_eq!(found(&LoraConfig { layers_to_transform: vec![0], ..pattern }), [0]);
        let whole = LoraConfig { modules_to_save: vec!["lm_head".into()], ..named(&["up_proj", "lm_head"]) };
        let targets = whole.targets(PATHS.iter().map(|&p| (p, [4, 4]))).unwrap();
        assert_eq!(targets.iter().filter(|t| t.kind == TargetKind::Full).count(), 1);
        let save = |name: &str| LoraConfig { modules_to_save: vec![name.into()], ..named(&["up_proj"]) };
        for (name, layers) in
            [("connector", 1), ("modality_projection", 1), ("model.connector", 1), ("0.self_attn", 4)]
        {
            let targets = save(name).targets(PATHS.iter().map(|&p| (p, [4, 4]))).unwrap();
            assert_eq!(targets.iter().filter(|t| t.kind == TargetKind::Full).count(), layers, "{name}");
        }
        // An embedding, and modules that hold norms or embeddings too.
        for name in ["embed_tokens", "text_model", "layers.0", "1"] {
            assert!(save(name).targets(PATHS.iter().map(|&p| (p, [4, 4]))).is_err(), "{name}");
        }
    }

    #[test]
    fn ranks_and_scales_of_their_own() {
        let config = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            rank_pattern: vec![(r"layers\.0\.self_attn\.q_proj".into(), 16), ("q_proj".into(), 2)],
            alpha_pattern: vec![("up_proj".into(), 1.0)],
            ..named(&["q_proj", "up_proj"])
        };
        let kinds = |config: &LoraConfig| {
            let targets = config.targets(PATHS.iter().map(|&p| (p, [4, 4]))).unwrap();
            let kind = |t: &Target| match t.kind {
                TargetKind::Lora { rank, scale, .. } => (rank, scale),
                TargetKind::Full => panic!("{t:?}"),
            };
            targets.iter().map(kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&config), [(16, 0.5), (16, 0.5), (2, 4.0), (4, 0.25)]);
        assert_eq!(kinds(&LoraConfig { use_rslora: true, ..config })[..1], [(16, 2.0)]);
    }
}
