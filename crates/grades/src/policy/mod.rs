//! Every way of ending or thinning out training early, behind one trait.
//!
//! A method is a file of this folder: its options ([`Method`]), what it must remember, and its [`Policy`]. Two lines of
//! this file make it known: one with its module, one in the list `methods!`, from which the config's `method` follows.
//!
//! The training loop treats all alike. At the start, fresh or restored, it applies [`Policy::in_force`]. At each step
//! (0 is before the first update) it asks [`Policy::wants`], passes what was asked for in an [`Observation`], and applies
//! the [`Decision`](crate::Decision).

mod contract;

pub mod aflora;
pub mod autofreeze;
pub mod budget;
pub mod freezeout;
mod grades;
pub mod layerwise_decay;
pub mod lisa;
pub mod loraf;
pub mod none;
pub mod scripted;
mod step_memory;
pub mod validation_loss;

use serde::{Deserialize, Serialize};

use crate::check::ConfigError;
use crate::config::Config;
use crate::unit::UnitId;

pub use contract::{Cost, Elements, Method, Observation, Policy, PolicyMemory, PolicyState, RatePart, RunFacts, Spent};

/// From a list of methods, each with the type of its options: the choice between them. The name of a variant, in snake
/// case, is the name of its method.
macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident($options:ty)),+ $(,)?) => {
        /// The choice of a method with its options, as a config file writes it: `{method: grades, tau: auto}`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(tag = "method", rename_all = "snake_case")]
        pub enum EarlyStopping {
            $($(#[$doc])* $variant($options),)+
        }

        impl EarlyStopping {
            /// Every method, each with its default options.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$variant(<$options>::default())),+]
            }

            /// The method and its options.
            pub fn method(&self) -> &dyn Method {
                match self {
                    $(Self::$variant(options) => options,)+
                }
            }

            fn method_mut(&mut self) -> &mut dyn Method {
                match self {
                    $(Self::$variant(options) => options,)+
                }
            }
        }
    };
}

methods! {
    /// All planned steps, every parameter.
    None(none::NoneConfig),
    /// GradES.
    Grades(Config),
    /// Classic early stopping on the validation loss.
    ValidationLoss(validation_loss::ValidationLossConfig),
    /// AutoFreeze: a growing prefix of layers.
    Autofreeze(autofreeze::AutoFreezeConfig),
    /// FreezeOut: each layer's learning rate falls to 0 on its own schedule, and the layer freezes.
    Freezeout(freezeout::FreezeOutConfig),
    /// A learning rate that is smaller the lower a layer lies.
    LayerwiseDecay(layerwise_decay::LayerwiseDecayConfig),
    /// LISA: a few layers at a time, drawn anew every so many steps.
    Lisa(lisa::LisaConfig),
    /// AFLoRA: adapter tensors along a schedule; LoRA only.
    Aflora(aflora::AfLoraConfig),
    /// LoRAF: A fixed, B sparse; LoRA only.
    Loraf(loraf::LorafConfig),
    /// All parameters, until so much arithmetic or time is spent.
    Budget(budget::BudgetConfig),
    /// What freezes when is written down beforehand.
    Scripted(scripted::ScriptedConfig),
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self::Grades(Config::default())
    }
}

impl EarlyStopping {
    /// The method of that name, with its default options.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|method| method.name() == name)
    }

    /// The name that a config writes as `method`.
    pub fn name(&self) -> &'static str {
        self.method().name()
    }

    /// Whether the method is defined for LoRA adapter pairs only ([`Method::needs_lora`]).
    pub fn needs_lora(&self) -> bool {
        self.method().needs_lora()
    }

    /// Whether the method needs a validation set ([`Method::needs_validation`]).
    pub fn needs_validation(&self) -> bool {
        self.method().needs_validation()
    }

    /// Whether the one who lists the units takes the roles inside a fused projection for units of their own
    /// ([`Config::split_fused`]); for the methods without the option true.
    pub fn split_fused(&self) -> bool {
        self.method().split_fused()
    }

    /// Whether what froze may train again ([`Method::unfreezes`]).
    pub fn unfreezes(&self) -> bool {
        self.method().unfreezes()
    }

    /// The same options, with what the run tells where they leave it out: the steps of the warm-up and of one epoch, which
    /// `tau: auto` needs, and the seed of methods that draw.
    #[must_use]
    pub fn for_run(mut self, facts: &RunFacts) -> Self {
        self.method_mut().fill_in(facts);
        self
    }

    /// Checks every option that can be checked without a model.
    ///
    /// # Errors
    /// The first option whose value cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.method().validate()
    }

    /// The policy for a run of `planned_steps` optimizer steps over these units.
    ///
    /// # Errors
    /// If the options are invalid, or do not fit the units.
    pub fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        self.method().build(units, planned_steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_method_its_options_and_its_policy_have_one_name() {
        let unit = [UnitId::language(0, crate::unit::Role::Q)];
        for method in EarlyStopping::all() {
            let json = serde_json::to_value(&method).unwrap();
            assert_eq!(json["method"], method.name());
            assert_eq!(serde_json::from_value::<EarlyStopping>(json).unwrap(), method);
            assert_eq!(EarlyStopping::named(method.name()), Some(method.clone()));
            // A budget has to be given.
            let method = match method {
                EarlyStopping::Budget(_) => {
                    EarlyStopping::Budget(budget::BudgetConfig { flops: Some(1e9), ..Default::default() })
                }
                method => method,
            };
            method.validate().unwrap();
            let mut policy = method.build(&unit, 10).unwrap();
            assert_eq!((policy.name(), policy.state().memory.name()), (method.name(), method.name()));
            let state = policy.state();
            assert_eq!(policy.restore(state), Ok(()));
        }
        assert_eq!(EarlyStopping::named("guess"), None);
    }
}
