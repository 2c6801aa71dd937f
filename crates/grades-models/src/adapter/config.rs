//! Low-rank adapters beside a decoder's projections (LoRA, Hu et al. 2021), with PEFT's options, names and initial values.

use crate::Error;
use crate::parameters::Group;
use crate::random::Random;
use crate::source::Source;

/// Every linear layer, as a target.
const ALL_LINEAR: &str = "all-linear";

/// The options of adapters, as PEFT's `LoraConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank: A is `[r, in]`, B `[out, r]`.
    pub r: usize,
    /// α: the product B · A counts `α / r` times.
    pub lora_alpha: f64,
    /// Whether it counts `α / √r` times instead (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// The layers that have an adapter: the ends of their names (`q_proj`), patterns of whole names with `*` and `?`
    /// (`model.layers.2?.*`), or `all-linear`; behind `language.`, `vision.` or `projector.` those of that part of the model
    /// (`vision.qkv`, `language.*`).
    pub target_modules: Vec<String>,
    /// The dropout rate of an adapter's input in training. Unlike PEFT's, one mask serves all adapters that share
    /// an input (q, k and v; gate and up).
    pub lora_dropout: f64,
    /// Whether each row of `W + s · B · A` has a length of its own that is trained (DoRA, Liu et al. 2024).
    pub use_dora: bool,
}

impl Default for LoraConfig {
    /// PEFT's defaults, on every linear layer.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            target_modules: vec![ALL_LINEAR.to_owned()],
            lora_dropout: 0.0,
            use_dora: false,
        }
    }
}

impl LoraConfig {
    /// The scaling factor of `B · A`: α / r, or α / √r.
    #[must_use]
    pub fn scaling(&self) -> f32 {
        let r = self.r as f64;
        (self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// The values that PEFT begins with: A uniform within `±1 / √in` (Kaiming with a = √5), B zero. Of DoRA's magnitudes
    /// it has none: they begin as the norms of the rows.
    #[must_use]
    pub fn initial(seed: u64) -> impl Source {
        Initial(Random::new(seed))
    }

    /// Whether a linear layer has an adapter.
    pub(crate) fn targets(&self, layer: &Linear) -> bool {
        self.target_modules.iter().any(|target| layer.is_meant(target))
    }

    /// Refuses targets that no layer has, and ranks that do not fit.
    pub(crate) fn check(&self, layers: &[Linear]) -> Result<(), Error> {
        let ends = |target: &str| layers.iter().any(|layer| layer.is_meant(target));
        if let Some(unknown) = self.target_modules.iter().find(|target| !ends(target)) {
            let mut known: Vec<&str> = layers.iter().map(|layer| last(&layer.module)).collect();
            known.sort_unstable();
            known.dedup();
            let known = known.join(", ");
            return Err(Error::Input(format!(
                "`lora_target_modules` names `{unknown}`, which is no linear layer of this model that could have an adapter; it \
                 has {known}, and {ALL_LINEAR} means all of them"
            )));
        }
        for Linear { module, shape, .. } in layers.iter().filter(|layer| self.targets(layer)) {
            let most = shape.iter().copied().min().unwrap_or(0);
            if self.r == 0 || self.r > most {
                return Err(Error::Input(format!(
                    "`lora_r: {}` is no rank for {module} of shape {shape:?}; it must lie between 1 and {most}",
                    self.r
                )));
            }
        }
        Ok(())
    }
}

/// The parts of a model as targets name them.
const PARTS: [(&str, Group); 3] =
    [("language.", Group::Language), ("vision.", Group::Vision), ("projector.", Group::Projector)];

/// The part of a model that a target is confined to, and the target within it.
#[must_use]
pub fn part_of_target(target: &str) -> (Option<Group>, &str) {
    let within = |(name, group): &(&str, Group)| Some((Some(*group), target.strip_prefix(name)?));
    match PARTS.iter().find_map(within) {
        Some((group, "*")) => (group, ALL_LINEAR),
        Some(found) => found,
        None => (None, target),
    }
}

/// A linear layer as targets mean it.
pub(crate) struct Linear {
    /// The part of the model that it belongs to.
    pub(crate) group: Group,
    /// Its name as PEFT has it.
    pub(crate) module: String,
    /// Its name in the model's files, where that is another.
    pub(crate) file: String,
    /// `[out, in]`.
    pub(crate) shape: [usize; 2],
    /// Whether it is written as a convolution, as that over the patches of pictures.
    pub(crate) is_convolution: bool,
}

impl Linear {
    /// Whether a target means it. As in PEFT, all linear layers are none of the convolutions.
    fn is_meant(&self, target: &str) -> bool {
        let (group, target) = part_of_target(target);
        let named = [&self.module, &self.file].into_iter().any(|name| matches(target, name));
        named && group.is_none_or(|group| group == self.group) && !(target == ALL_LINEAR && self.is_convolution)
    }
}

/// The name of the layer that a weight belongs to.
pub(super) fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

fn last(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// Whether a target of PEFT's means a module: by the end of its name, or by a pattern of the whole.
fn matches(target: &str, module: &str) -> bool {
    let end = || module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    target == ALL_LINEAR || (!target.is_empty() && end()) || glob(target.as_bytes(), module.as_bytes())
}

/// Whether `text` has the form of `pattern`, where `*` stands for any text and `?` for any one letter.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', pattern @ ..], _) => (0..=text.len()).any(|skip| glob(pattern, &text[skip..])),
        ([b'?', pattern @ ..], [_, text @ ..]) => glob(pattern, text),
        ([letter, pattern @ ..], [first, text @ ..]) => letter == first && glob(pattern, text),
        _ => false,
    }
}

/// See [`LoraConfig::initial`].
struct Initial(Random);

impl Source for Initial {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let width = shape.last().copied().unwrap_or(1).max(1) as f32;
        let len = shape.iter().product();
        Ok(if name.ends_with("lora_A.weight") {
            self.0.uniform(name, len, width.sqrt().recip())
        } else if name.ends_with(super::names::MAGNITUDE) {
            Vec::new()
        } else {
            vec![0.0; len]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_ends_of_names_or_patterns() {
        let module = "model.layers.12.self_attn.q_proj";
        for target in ["q_proj", "self_attn.q_proj", module, "all-linear", "*.q_proj", "model.layers.1?.*", "*12*"] {
            assert!(matches(target, module), "{target}");
        }
        for target in ["", "proj", "k_proj", "q_proj.x", "model.layers.?.*", "attn.q_proj", "layers.12"] {
            assert!(!matches(target, module), "{target}");
        }
    }

    #[test]
    fn targets_may_be_confined_to_a_part_of_the_model() {
        let layer = |group, module: &str, is_convolution| Linear {
            group,
            module: module.to_owned(),
            file: module.to_owned(),
            shape: [8, 8],
            is_convolution,
        };
        let layers = [
            layer(Group::Vision, "visual.patch_embed.proj", true),
            layer(Group::Vision, "visual.blocks.0.attn.proj", false),
            layer(Group::Vision, "visual.blocks.0.mlp.up_proj", false),
            layer(Group::Projector, "visual.merger.mlp.0", false),
            layer(Group::Language, "model.layers.0.mlp.up_proj", false),
        ];
        for (target, meant) in [
            ("all-linear", &[1, 2, 3, 4][..]),
            ("language.*", &[4]),
            ("language.all-linear", &[4]),
            ("vision.*", &[1, 2]),
            ("projector.*", &[3]),
            ("up_proj", &[2, 4]),
            ("vision.up_proj", &[2]),
            ("language.model.layers.?.*", &[4]),
            ("vision.proj", &[0, 1]),
            ("vision.model.*", &[]),
        ] {
            let found: Vec<usize> = (0..layers.len()).filter(|&at| layers[at].is_meant(target)).collect();
            assert_eq!(found, meant, "{target}");
        }
    }

    #[test]
    fn adapters_begin_as_those_of_peft() {
        let source = LoraConfig::initial(3);
        let a = source.load("x.lora_A.weight", &[50, 64]).unwrap();
        // Uniform within ±1/8: the variance is a third of the bound's square; its standard error is below 2 % here.
        assert!(a.iter().all(|v| v.abs() <= 0.125) && a.iter().any(|v| *v > 0.12) && a.iter().any(|v| *v < -0.12));
        let square = a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / a.len() as f64;
        assert!((square * 3.0 * 64.0 - 1.0).abs() < 0.06, "{square}");
        assert_eq!(source.load("x.lora_B.weight", &[3, 2]).unwrap(), [0.0; 6]);
        assert_ne!(LoraConfig::initial(4).load("x.lora_A.weight", &[50, 64]).unwrap(), a);
        let config = |use_rslora| LoraConfig { r: 16, use_rslora, ..LoraConfig::default() };
        assert_eq!((config(false).scaling(), config(true).scaling()), (0.5, 2.0));
    }
}
