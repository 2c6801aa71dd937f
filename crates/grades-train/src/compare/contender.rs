//! What may stand beside one another in a comparison, by the names that `--methods` gives.

use std::fmt;

use grades::EarlyStopping;

use super::control::Control;
use super::error::CompareError;
use crate::config::Variants;

/// Schedules that have a name of their own: `none` with another `lr_scheduler`.
const SCHEDULES: [(&str, &str); 2] = [("linear", "linear"), ("wsd", "warmup_stable_decay")];

/// A way of training that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// A method of `early_stopping`.
    Method(String),
    /// Training without stopping, with this `lr_scheduler`.
    Schedule(&'static str, &'static str),
    /// A name under `compare:` of the config, with the options that stand there.
    Own(String),
    /// What a method is held against, made from its finished run.
    Control(Control, String),
}

impl Contender {
    /// The contender of that name: a method, a schedule, a control (`shorter`, or `shorter:METHOD`; of `grades` where none is
    /// named), or a name that stands under `compare:`.
    pub(super) fn named(name: &str, variants: &Variants) -> Result<Self, CompareError> {
        let (kind, of) = name.split_once(':').unwrap_or((name, "grades"));
        if let Some(control) = Control::named(kind) {
            return Ok(Self::Control(control, of.trim().to_owned()));
        }
        if EarlyStopping::named(name).is_some() {
            return Ok(Self::Method(name.to_owned()));
        }
        if let Some((name, scheduler)) = SCHEDULES.into_iter().find(|(known, _)| *known == name) {
            return Ok(Self::Schedule(name, scheduler));
        }
        if variants.names().any(|own| own == name) {
            return Ok(Self::Own(name.to_owned()));
        }
        Err(CompareError::Unknown(format!(
            "there is no method `{name}`; known are {}, names that stand under `compare:` with an `early_stopping` of their own, and \
             {} with the method that they are a control of, such as shorter:grades",
            known().join(", "),
            Control::ALL.map(Control::name).join(", ")
        )))
    }

    /// The name under which `compare:` and `NAME:KEY=VALUE` give it options.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Method(name) | Self::Own(name) => name,
            Self::Schedule(name, _) => name,
            Self::Control(control, _) => control.name(),
        }
    }

    /// What a run has of it before the options under its name.
    pub(super) fn options(&self) -> Vec<String> {
        match self {
            Self::Method(name) => vec![format!("early_stopping.method={name}")],
            Self::Schedule(_, scheduler) => vec![NONE.to_owned(), format!("lr_scheduler={scheduler}")],
            // What stands under its name is all that it has of it.
            Self::Own(_) => vec!["early_stopping=null".to_owned()],
            Self::Control(..) => vec![NONE.to_owned(), "lr_scheduler=cosine".to_owned()],
        }
    }
}

/// Training to the planned end.
pub(super) const NONE: &str = "early_stopping.method=none";

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(control, of) => write!(f, "{}:{of}", control.name()),
            other => f.write_str(other.key()),
        }
    }
}

/// Names that mean the same in every config.
pub(super) fn known() -> Vec<&'static str> {
    let methods = EarlyStopping::all().into_iter().map(|method| method.name());
    // Without a script there is nothing to play; controls write one.
    methods.filter(|name| *name != "scripted").chain(SCHEDULES.map(|(name, _)| name)).collect()
}
