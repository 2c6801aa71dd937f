//! The rotary positions of a config.

use serde_json::{Map, Value};

use super::Sizes;
use crate::Error;
use crate::fields::{Fields, FieldsError};
use crate::nn::{RopeConfig, RopeScaling};

/// How much of a head an architecture rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotated {
    /// All of it.
    Whole,
    /// The share that `partial_rotary_factor` says.
    Share,
}

/// Keys of scalings that do not use them; transformers reads over them, too.
const UNUSED: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "short_factor",
    "truncate",
];

/// Rotary positions: `rope_parameters` of transformers 5, or `rope_theta`, `partial_rotary_factor` and `rope_scaling`
/// before it; `theta` is the base where there is none.
pub(crate) fn rope(config: &Fields<'_>, sizes: &Sizes, rotated: Rotated, theta: f64) -> Result<RopeConfig, Error> {
    // Where there are both, transformers takes the older one.
    let older =
        config.get("rope_scaling").is_some_and(|value| value.as_object().is_none_or(|object| !object.is_empty()));
    config.harmless(&["rope_parameters"]);
    let theta = config.optional("rope_theta")?.unwrap_or(theta);
    config.section(if older { "rope_scaling" } else { "rope_parameters" }, |parameters| {
        Reader { config, parameters, sizes }.rope(rotated, theta)
    })
}

/// The rotary positions of layers that see all, and of those whose window slides: in transformers 5 each has a part of
/// `rope_parameters`; before it `rope_theta` and `rope_scaling` were of the first, and `rope_local_base_freq` of the others.
/// `theta` has the base of each where there is none.
pub(crate) fn ropes(config: &Fields<'_>, sizes: &Sizes, theta: [f64; 2]) -> Result<[RopeConfig; 2], Error> {
    let whole = config.optional("rope_theta")?.unwrap_or(theta[0]);
    let local = config.optional("rope_local_base_freq")?.unwrap_or(theta[1]);
    let read = |parameters: &Fields<'_>, theta| Reader { config, parameters, sizes }.rope(Rotated::Whole, theta);
    if config.get("rope_parameters").is_none() {
        let rotary_dim = sizes.head_dim;
        let local = RopeConfig { rotary_dim, theta: local, scaling: RopeScaling::None };
        return Ok([config.section("rope_scaling", |parameters| read(parameters, whole))?, local]);
    }
    // transformers adds the older one to the newer one.
    config.only("rope_scaling", &[Value::Object(Map::new())])?;
    config.section("rope_parameters", |parts| {
        let whole = parts.section("full_attention", |parameters| read(parameters, whole))?;
        Ok([whole, parts.section("sliding_attention", |parameters| read(parameters, local))?])
    })
}

struct Reader<'a> {
    config: &'a Fields<'a>,
    parameters: &'a Fields<'a>,
    sizes: &'a Sizes,
}

impl Reader<'_> {
    fn rope(&self, rotated: Rotated, theta: f64) -> Result<RopeConfig, Error> {
        let theta = self.parameters.optional("rope_theta")?.unwrap_or(theta);
        let rotary_dim = self.rotary_dim(rotated)?;
        let scaling = self.scaling(rotary_dim)?;
        self.parameters.harmless(UNUSED);
        Ok(RopeConfig { rotary_dim, theta, scaling })
    }

    /// A number that older configs have beside the parameters.
    fn either(&self, key: &str) -> Result<Option<f64>, FieldsError> {
        let beside = self.config.optional(key)?;
        Ok(self.parameters.optional(key)?.or(beside))
    }

    fn rotary_dim(&self, rotated: Rotated) -> Result<usize, Error> {
        const SHARE: &str = "partial_rotary_factor";
        let head_dim = self.sizes.head_dim;
        if rotated == Rotated::Whole {
            for fields in [self.config, self.parameters] {
                fields.only(SHARE, &[1.into()])?;
            }
            return Ok(head_dim);
        }
        let share = self.either(SHARE)?.unwrap_or(1.0);
        // As transformers rounds.
        let rotary_dim = (head_dim as f64 * share) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            return Err(Error::config(format!(
                "has `{SHARE}: {share}`, by which {rotary_dim} of a head's {head_dim} elements rotate; their \
                 number must be even, at least 2 and at most {head_dim}"
            )));
        }
        Ok(rotary_dim)
    }

    fn scaling(&self, rotary_dim: usize) -> Result<RopeScaling, Error> {
        let parameters = self.parameters;
        let number = |key: &str| {
            parameters
                .optional::<f64>(key)?
                .filter(|number| *number > 0.0)
                .ok_or_else(|| Error::config(format!("lacks a positive `{key}` in its rope scaling")))
        };
        // Beside the scaling or in it; the first counts.
        const ORIGINAL: &str = "original_max_position_embeddings";
        let inner: Option<f64> = parameters.optional(ORIGINAL)?;
        let original = self.config.optional(ORIGINAL)?.or(inner);
        let older = parameters.optional::<String>("type")?;
        let kind = parameters.optional::<String>("rope_type")?.or(older);
        Ok(match kind.as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: number("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: original.map_or_else(|| number(ORIGINAL), Ok)?,
            },
            Some("dynamic") if rotary_dim == 2 => {
                return Err(Error::config("has the rope type `dynamic`, which needs more than 2 elements that rotate"));
            }
            Some("dynamic") => {
                RopeScaling::Dynamic { factor: number("factor")?, max_position_embeddings: self.longest("dynamic")? }
            }
            Some("yarn") => self.yarn(original)?,
            // The first Phi-3 called it so.
            Some("longrope" | "su") => self.long_rope(original, rotary_dim)?,
            Some(other) => {
                return Err(Error::config(format!(
                    "has the rope type `{other}`; supported are default, linear, dynamic, yarn, llama3 and longrope"
                )));
            }
        })
    }

    /// The length that the model was made for, which a scaling begins with.
    fn longest(&self, kind: &str) -> Result<usize, Error> {
        match (self.config.get("max_position_embeddings"), self.sizes.max_position_embeddings) {
            (Some(_), longest) if longest > 0 => Ok(longest),
            _ => Err(Error::config(format!("lacks a positive `max_position_embeddings` for its rope type `{kind}`"))),
        }
    }

    fn yarn(&self, original: Option<f64>) -> Result<RopeScaling, Error> {
        // Of these transformers takes 0 for left out.
        let number = |key: &str| match self.parameters.optional::<f64>(key)? {
            Some(number) if number < 0.0 => {
                Err(Error::config(format!("has `{key}: {number}` in its rope scaling; it must not be below 0")))
            }
            number => Ok(number.filter(|number| *number > 0.0)),
        };
        let positive = |key: &str| match self.parameters.optional::<f64>(key)? {
            Some(number) if number <= 0.0 => {
                Err(Error::config(format!("has `{key}: {number}` in its rope scaling; it must be above 0")))
            }
            number => Ok(number),
        };
        let original = match original {
            Some(original) if original > 0.0 => original,
            Some(original) => {
                return Err(Error::config(format!(
                    "has `original_max_position_embeddings: {original}` for its rope scaling; it must be above 0"
                )));
            }
            None => self.longest("yarn")? as f64,
        };
        let factor = match positive("factor")? {
            Some(factor) => factor,
            None => self.longest("yarn")? as f64 / original,
        };
        let grown = |share: f64| if factor <= 1.0 { 1.0 } else { 0.1 * share * factor.ln() + 1.0 };
        let attention_factor = match (positive("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
            (Some(given), _, _) => given,
            (None, Some(share), Some(of_all)) => grown(share) / grown(of_all),
            (None, _, _) => grown(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: number("beta_fast")?.unwrap_or(32.0),
            beta_slow: number("beta_slow")?.unwrap_or(1.0),
            truncate: self.parameters.optional("truncate")?.unwrap_or(true),
            attention_factor,
        })
    }

    fn long_rope(&self, original: Option<f64>, rotary_dim: usize) -> Result<RopeScaling, Error> {
        let parameters = self.parameters;
        let factors = |key: &str| {
            parameters
                .optional::<Vec<f64>>(key)?
                .filter(|factors| factors.len() == rotary_dim / 2 && factors.iter().all(|factor| *factor > 0.0))
                .ok_or_else(|| {
                    Error::config(format!("needs `{key}` in its rope scaling: {} positive numbers", rotary_dim / 2))
                })
        };
        let original = original.unwrap_or(0.0);
        if original < 2.0 || original.fract() != 0.0 {
            return Err(Error::config(format!(
                "has `original_max_position_embeddings: {original}` for its rope scaling; it must be a whole number of at least 2"
            )));
        }
        let attention_factor = match parameters.optional("attention_factor")? {
            Some(factor) => factor,
            None => {
                let stretched = self.sizes.max_position_embeddings as f64 / original;
                let factor: f64 = parameters.optional("factor")?.unwrap_or(stretched);
                (1.0 + factor.max(1.0).ln() / original.ln()).sqrt()
            }
        };
        Ok(RopeScaling::LongRope {
            short_factor: factors("short_factor")?,
            long_factor: factors("long_factor")?,
            original_max_position_embeddings: original as usize,
            attention_factor,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{HfConfig, sizes};
    use crate::nn::Rope;

    fn read(rotated: Rotated, more: Value) -> Result<RopeConfig, Error> {
        let mut config = json!({
            "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "max_position_embeddings": 64,
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        HfConfig::new(config).unwrap().read(|config| rope(config, &sizes(config)?, rotated, 10_000.0))
    }

    #[test]
    fn rotary_positions_are_read_in_either_spelling() {
        let plain = |theta| RopeConfig { rotary_dim: 16, theta, scaling: RopeScaling::None };
        for (config, expected) in [
            (json!({}), plain(10_000.0)),
            (json!({ "rope_theta": 5e5, "rope_scaling": null }), plain(5e5)),
            (json!({ "rope_theta": 5e5, "rope_scaling": {} }), plain(5e5)),
            (json!({ "rope_parameters": { "rope_theta": 1e6, "rope_type": "default", "factor": 2.0 } }), plain(1e6)),
            (
                json!({ "rope_theta": 3.0, "rope_parameters": { "rope_theta": 7.0, "partial_rotary_factor": 1.0 } }),
                plain(7.0),
            ),
            // The older one counts, as in transformers.
            (
                json!({ "rope_scaling": { "type": "linear", "factor": 2.0 }, "rope_parameters": { "rope_theta": 7.0 } }),
                RopeConfig { scaling: RopeScaling::Linear { factor: 2.0 }, ..plain(10_000.0) },
            ),
        ] {
            assert_eq!(read(Rotated::Whole, config.clone()).unwrap(), expected, "{config}");
        }
        let half = json!({ "partial_rotary_factor": 0.5 });
        assert_eq!(read(Rotated::Share, half).unwrap().rotary_dim, 8);
    }

    /// Against the frequencies and factors of transformers' `ROPE_INIT_FUNCTIONS` (5.24), for a head of 16 elements: the scaling,
    /// `max_position_embeddings`, the length of the text, what comes out.
    #[test]
    fn scalings_have_the_frequencies_of_transformers() {
        let dynamic = json!({ "rope_type": "dynamic", "factor": 4.0 });
        let cases: [(Value, usize, usize, [f64; 8], f64); 7] = [
            (
                dynamic.clone(),
                64,
                65,
                [1.0, 0.3135009, 0.09828278, 0.03081174, 0.009659505, 0.003028263, 0.0009493631, 0.0002976261],
                1.0,
            ),
            (
                dynamic,
                64,
                200,
                [1.0, 0.2292584, 0.0525594, 0.01204968, 0.002762491, 0.0006333241, 0.0001451948, 3.328714e-05],
                1.0,
            ),
            (
                json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16 }),
                64,
                3,
                [1.0, 0.07905694, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
                1.138629436111989,
            ),
            (
                json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "truncate": false, "beta_fast": 24.0, "beta_slow": 2.0 }),
                4096,
                3,
                [1.0, 0.3162278, 0.08831814, 0.01694019, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
                1.138629436111989,
            ),
            (
                json!({ "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 1024, "mscale": 1.0, "mscale_all_dim": 0.5 }),
                4096,
                3,
                [1.0, 0.3162278, 0.075625, 0.01620667, 0.0026875, 7.905695e-05, 2.5e-05, 7.905694e-06],
                1.1557219901962608,
            ),
            (
                json!({ "rope_type": "yarn", "factor": null, "original_max_position_embeddings": 1024, "attention_factor": 1.5 }),
                4096,
                3,
                [1.0, 0.3162278, 0.08125, 0.01976424, 0.004375, 0.0007905695, 0.00025, 7.905695e-05],
                1.5,
            ),
            (
                json!({ "rope_type": "yarn", "factor": 0.5, "beta_fast": 0, "mscale": 1.0 }),
                4096,
                3,
                [1.0, 0.3162278, 0.1, 0.03952847, 0.015, 0.005533986, 0.002, 0.0006324556],
                1.0,
            ),
        ];
        for (scaling, longest, tokens, frequencies, factor) in cases {
            let config = json!({ "max_position_embeddings": longest, "rope_scaling": scaling });
            let table = Rope::new(&read(Rotated::Whole, config).unwrap()).table(tokens);
            assert_eq!(table.rotary_dim, 16);
            for (pair, frequency) in frequencies.into_iter().enumerate() {
                for position in 0..3 {
                    let (cos, sin) = (table.cos[8 * position + pair], table.sin[8 * position + pair]);
                    let angle = position as f64 * frequency;
                    let close = (f64::from(cos) - factor * angle.cos()).abs() < 3e-7;
                    // The sine shows small frequencies by their own size.
                    let small = (f64::from(sin) - factor * angle.sin()).abs() <= 1e-6 * (factor * angle.sin()).abs();
                    assert!(close && small, "{scaling}: pair {pair} at {position}: {cos}, {sin}");
                }
            }
        }
    }

    #[test]
    fn layers_that_see_all_and_others_have_positions_of_their_own() {
        let read = |more: Value| {
            let mut config = json!({
                "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let read = |config: &Fields<'_>| ropes(config, &sizes(config)?, [1e6, 1e4]);
            HfConfig::new(config).unwrap().read(read).map_err(|error| error.to_string())
        };
        let linear = json!({ "rope_type": "linear", "factor": 8.0 });
        for (config, thetas, factor) in [
            (json!({}), [1e6, 1e4], None),
            (json!({ "rope_theta": 5.0, "rope_local_base_freq": 3.0, "rope_scaling": linear }), [5.0, 3.0], Some(8.0)),
            (
                json!({ "rope_parameters": {
                    "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 5.0 },
                    "sliding_attention": { "rope_type": "default", "rope_theta": 3.0 },
                } }),
                [5.0, 3.0],
                Some(8.0),
            ),
            (
                json!({ "rope_parameters": { "full_attention": { "rope_theta": 5.0 } }, "rope_scaling": {} }),
                [5.0, 1e4],
                None,
            ),
        ] {
            let [whole, local] = read(config.clone()).unwrap();
            assert_eq!([whole.theta, local.theta], thetas, "{config}");
            assert_eq!(
                whole.scaling,
                factor.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor }),
                "{config}"
            );
            assert_eq!(local.scaling, RopeScaling::None, "{config}");
        }
        for (config, part) in [
            (json!({ "rope_parameters": {}, "rope_scaling": linear }), "`rope_scaling: "),
            (json!({ "rope_parameters": { "rope_theta": 7.0 } }), "`rope_parameters.rope_theta`"),
        ] {
            let error = read(config).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (config, part) in [
            (json!({ "partial_rotary_factor": 0.5 }), "`partial_rotary_factor: 0.5`"),
            (
                json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
                "`rope_parameters.partial_rotary_factor: 0.5`",
            ),
            (json!({ "rope_scaling": { "rope_type": "proportional", "factor": 2.0 } }), "`proportional`"),
            (json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 }, "head_dim": 2 }), "`dynamic`"),
            (json!({ "rope_scaling": { "type": "dynamic" } }), "`factor`"),
            (
                json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 }, "max_position_embeddings": null }),
                "`max_position_embeddings`",
            ),
            (json!({ "rope_scaling": { "type": "yarn", "factor": -2.0 } }), "`factor: -2`"),
            (json!({ "rope_scaling": { "type": "yarn", "beta_fast": -1 } }), "`beta_fast: -1`"),
            (json!({ "rope_scaling": { "type": "yarn", "attention_factor": 0 } }), "`attention_factor: 0`"),
            (
                json!({ "rope_scaling": { "type": "yarn", "original_max_position_embeddings": 0 } }),
                "`original_max_position_embeddings: 0`",
            ),
            (json!({ "rope_scaling": { "type": "linear" } }), "`factor`"),
            (json!({ "rope_scaling": "linear" }), "`rope_scaling: \"linear\"`"),
            (json!({ "rope_scaling": { "type": "default", "mrope_section": [1, 2] } }), "`rope_scaling.mrope_section`"),
            (
                json!({ "rope_parameters": { "full_attention": { "rope_theta": 7.0 } } }),
                "`rope_parameters.full_attention`",
            ),
            (json!({ "rope_scaling": { "type": "su" } }), "`original_max_position_embeddings: 0`"),
        ] {
            let error = read(Rotated::Whole, config).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
