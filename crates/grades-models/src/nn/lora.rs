//! Low-rank adapters beside a decoder's projections (LoRA, Hu et al. 2021), with PEFT's options, names and initial values.

use burn::tensor::{Device, Tensor, TensorData};

use super::projection::sum_squares;
use crate::parameters::{Builder, Parameter, ParameterId, Parameters, Place, Source};
use crate::peft::{MAGNITUDE, PREFIX};
use crate::random::Random;
use crate::{Error, host};

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
    /// (`model.layers.2?.*`), or `all-linear`.
    pub target_modules: Vec<String>,
    /// The share of an adapter's input that is dropped in training. Unlike PEFT's, one mask serves all adapters that share
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

/// The adapter of one matrix.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) a: ParameterId,
    pub(super) b: ParameterId,
    pub(super) dora: Option<Dora>,
    /// Whether the weight holds it already.
    pub(super) folded: bool,
}

impl Pair {
    /// Its parameters.
    pub(super) fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        [self.a, self.b].into_iter().chain(self.dora.as_ref().map(|dora| dora.magnitude))
    }
}

/// What DoRA adds to a pair.
#[derive(Clone, Debug)]
pub(super) struct Dora {
    /// The length of each row, `[out]`.
    pub(super) magnitude: ParameterId,
    /// The squared norm of each row of the base's weight, `[1, out]`.
    pub(super) squares: Tensor<2>,
}

/// What the dropout of a pass is drawn from: the same pass draws the same masks, also after a resumed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The micro-batch of the step.
    pub micro_batch: u64,
}

impl Draw {
    pub(super) fn key(self, site: u64) -> [u64; 4] {
        [self.seed, self.step, self.micro_batch, site]
    }
}

impl LoraConfig {
    /// How often B · A counts.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// The values that PEFT begins with: A uniform within `±1 / √in` (Kaiming with a = √5), B zero. Of DoRA's magnitudes
    /// it has none: they begin as the norms of the rows.
    #[must_use]
    pub fn initial(seed: u64) -> impl Source {
        Initial(Random::new(seed))
    }

    /// Adds the pairs to the table, and to each projection's list of weights its list of pairs. What was in the table
    /// before keeps its index, and its place gives way to [`Place::Base`].
    pub(super) fn attach(
        &self,
        mut parameters: Parameters,
        projections: &mut [(&Vec<ParameterId>, &mut Vec<Option<Pair>>)],
        values: &dyn Source,
        device: &Device,
    ) -> Result<Parameters, Error> {
        let layers = projections.iter().flat_map(|(weights, _)| weights.iter()).map(|&id| parameters.get(id));
        self.check(&layers.map(|layer| (module(&layer.name), layer.shape.as_slice())).collect::<Vec<_>>())?;
        let units: Vec<Place> = parameters.iter().map(|parameter| parameter.place).collect();
        for parameter in parameters.iter_mut() {
            parameter.place = Place::Base;
            parameter.set_trainable(false);
        }
        let mut builder = Builder::onto(parameters, values, device);
        for (weights, pairs) in projections {
            for &id in weights.iter() {
                let layer = builder.parameters().get(id);
                let (name, shape) = (module(&layer.name).to_owned(), layer.shape.clone());
                let (Some(&out), Some(&width)) = (shape.first(), shape.last()) else { continue };
                let place = units[id.index()];
                if !self.targets(&name) {
                    pairs.push(None);
                    continue;
                }
                let squares = if self.use_dora { Some(squares(layer, device)?) } else { None };
                let mut add = |matrix, shape| builder.add(&format!("{PREFIX}{name}.{matrix}.weight"), shape, place);
                let (a, b) = (add("lora_A", &[self.r, width])?, add("lora_B", &[out, self.r])?);
                let dora = squares.map(|squares| {
                    let start = host::read("norms", &squares, |squares| squares.iter().map(|s| s.sqrt()).collect())?;
                    let magnitude = builder.add_or(&format!("{PREFIX}{name}{MAGNITUDE}"), &[out], place, start)?;
                    Ok::<_, Error>(Dora { magnitude, squares })
                });
                pairs.push(Some(Pair { a, b, dora: dora.transpose()?, folded: false }));
            }
            if pairs.iter().all(Option::is_none) {
                pairs.clear();
            }
        }
        Ok(builder.finish())
    }

    /// Whether a linear layer of this name has an adapter.
    fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|target| matches(target, module))
    }

    fn check(&self, layers: &[(&str, &[usize])]) -> Result<(), Error> {
        let ends = |target: &str| layers.iter().any(|(module, _)| matches(target, module));
        if let Some(unknown) = self.target_modules.iter().find(|target| !ends(target)) {
            let mut known: Vec<&str> = layers.iter().map(|(module, _)| last(module)).collect();
            known.sort_unstable();
            known.dedup();
            let known = known.join(", ");
            return Err(Error::Input(format!(
                "`lora_target_modules` names `{unknown}`, which is no linear layer of this model; it has {known}, and \
                 {ALL_LINEAR} means all of them"
            )));
        }
        for (module, shape) in layers.iter().filter(|(module, _)| self.targets(module)) {
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

/// The squared norm of each row of a weight, `[1, out]`.
fn squares(weight: &Parameter, device: &Device) -> Result<Tensor<2>, Error> {
    let (rows, columns) = (weight.rows(), weight.shape.last().copied().unwrap_or(1));
    let squares: Vec<f32> =
        weight.read(|values| values.chunks(columns.max(1)).map(|row| sum_squares(row) as f32).collect())?;
    let squares = Tensor::from_data(TensorData::new(squares, [1, rows]), device);
    Ok(if squares.is_autodiff() { squares.inner() } else { squares })
}

/// The name of the layer that a weight belongs to.
fn module(weight: &str) -> &str {
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
        } else if name.ends_with(MAGNITUDE) {
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
        assert_eq!((config(false).scale(), config(true).scale()), (0.5, 2.0));
    }
}
