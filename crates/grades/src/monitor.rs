//! GradES itself: measurements in, decisions out, once a step.

use std::collections::{BTreeMap, BTreeSet};

use crate::auto::{Detector, Rule};
use crate::check::ConfigError;
use crate::companion::{Companion, Companions};
use crate::config::Config;
use crate::decision::{Decision, Wants};
use crate::event::{Event, StopReason};
use crate::gain::StepGains;
use crate::signal::{Measurement, Signal};
use crate::state::{MonitorState, RestoreError, UnitState, check_units};
use crate::threshold::Tau;
use crate::unit::UnitId;

/// Watches the units of one run and decides when each of them freezes (Algorithm 1).
///
/// Steps are counted from 1. At each step ask [`wants`](Self::wants) what to measure and keep, and pass what was
/// measured to [`observe`](Self::observe). Decisions are made at measured steps after the grace period: a unit freezes
/// when its signal has passed its threshold at `patience` consecutive measurements since then. A missing or non-finite
/// measurement never freezes a unit and makes it count from zero again. Frozen units stay frozen, but with
/// [`Config::unfreeze`] they are tried again.
#[derive(Debug, Clone)]
pub struct Monitor {
    config: Config,
    planned_steps: usize,
    grace: usize,
    last_step: usize,
    stopped: bool,
    measurements: u64,
    units: BTreeMap<UnitId, UnitState>,
    /// With `tau: auto`.
    detector: Option<Detector>,
    events: Vec<Event>,
}

impl Monitor {
    /// A monitor for a run of `planned_steps` optimizer steps over these units.
    ///
    /// # Errors
    /// If the config is invalid, or does not fit the units.
    pub fn new(config: Config, units: &[UnitId], planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate_for(units, planned_steps)?;
        Ok(Self {
            grace: config.grace(planned_steps),
            units: units.iter().map(|unit| (*unit, UnitState::default())).collect(),
            detector: (config.tau == Tau::Auto).then(Detector::default),
            config,
            planned_steps,
            last_step: 0,
            stopped: false,
            measurements: 0,
            events: Vec::new(),
        })
    }

    /// What this step's observation needs, and what to keep for a later one. Nothing is wanted before the first
    /// decision can need it, unless `tau: auto` or `trace` do, and nothing after training stopped.
    ///
    /// Ask for step 0 too, before the first update: a change of weights may start there.
    pub fn wants(&self, step: usize) -> Wants {
        let signal = self.config.signal();
        let by_weight = signal == Signal::WeightChange;
        let first = self.first_measured_step();
        Wants {
            measure_gradients: !self.stopped && !by_weight && self.measured(step),
            measure_weights: !self.stopped && by_weight && self.measured(step),
            norm: self.config.norm(),
            // Step 0 has no gradient: `observe` applies ∇W_0 := 0.
            keep_gradient: !self.stopped && step > 0 && signal.needs_previous_gradient() && self.measured(step + 1),
            keep_weight: !self.stopped && by_weight && (self.measured(step) || step + self.span(first) == first),
            gain: !self.stopped && step > 1 && self.detector.is_some() && self.config.auto.gain > 0.0,
            ..Wants::default()
        }
    }

    /// With `tau: auto`, takes the gains that the update of step `step` has found of the update before it,
    /// −⟨∇W_t, W_{t−1} − W_{t−2}⟩: the decisions of later steps know them.
    pub fn observe_gains(&mut self, step: usize, gains: &StepGains<'_>) {
        let rule = self.rule();
        if let Some(detector) = self.detector.as_mut().filter(|_| !self.stopped) {
            detector.observe_gains(&rule, step, gains);
        }
    }

    /// With `tau: auto`, takes the mean training loss per predicted token of step `step`, before its measurements: where samples
    /// come again it tells whether they are learnt by heart. Without it they count as known from the second epoch on.
    pub fn observe_loss(&mut self, step: usize, loss: f64) {
        let rule = self.rule();
        if let Some(detector) = self.detector.as_mut().filter(|_| !self.stopped && step > self.last_step) {
            detector.observe_loss(&rule, step, loss);
        }
    }

    /// Takes the measurements of a step: for each unit those of its tensors (one, or A and B of a LoRA pair).
    ///
    /// At step 1 a measurement without a previous gradient is completed by the paper's ∇W_0 := 0. Frozen and unknown
    /// units are ignored. Measurements that [`wants`](Self::wants) did not ask for are reported in
    /// [`Decision::signals`] and change nothing; so does a step that is not later than the last one observed.
    pub fn observe(&mut self, step: usize, measurements: &[(UnitId, Vec<Measurement>)]) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if self.stopped || step <= self.last_step {
            return decision;
        }
        self.last_step = step;
        let companions_before = self.frozen_companions();
        let signal = self.config.signal();
        let training = self.training(step, measurements);
        self.measurements += training.iter().map(|(_, parts)| parts.len() as u64).sum::<u64>();
        decision.signals.extend(training.iter().filter_map(|(unit, parts)| Some((*unit, signal.value(parts)?))));
        // What is measured earlier is for the trace alone.
        if !self.measured(step) || step < self.first_deciding_step() {
            return decision;
        }
        let rule = self.rule();
        let converged = match &mut self.detector {
            Some(detector) => detector.converged(&rule, step, training.iter().map(|(unit, parts)| (*unit, &parts[..]))),
            None => {
                let tau = |unit| self.config.tau.of(unit);
                let passes = |(unit, value): &(UnitId, f64)| tau(*unit).is_some_and(|tau| signal.passes(*value, tau));
                decision.signals.iter().filter(|entry| passes(entry)).map(|(unit, _)| *unit).collect()
            }
        };
        // The grace period is for averages of the agreement; gains say by themselves when they can be trusted.
        let nothing_gained = self.config.alpha.is_none() && self.detector.as_ref().is_some_and(Detector::gains_nothing);
        if step <= self.grace && !nothing_gained {
            return decision;
        }
        let converged: BTreeSet<UnitId> = converged.into_iter().collect();
        for (unit, state) in self.units.iter_mut().filter(|(_, state)| state.frozen_at.is_none()) {
            state.streak = if converged.contains(unit) { state.streak + 1 } else { 0 };
            if state.streak >= self.config.patience {
                state.frozen_at = Some(step);
                decision.freeze.push(*unit);
            }
        }
        decision.stop = self.stop_reason();
        self.stopped = decision.stop.is_some();
        if !self.stopped {
            decision.unfreeze = self.tried_again(step);
        }
        let companions_now = self.frozen_companions();
        decision.freeze_companions = companions_now.difference(&companions_before).copied().collect();
        decision.unfreeze_companions = companions_before.difference(&companions_now).copied().collect();
        self.events.extend(decision.events());
        decision
    }

    /// The parameters of `tau: auto`, resolved for this run.
    fn rule(&self) -> Rule {
        self.config.auto.rule(self.config.norm(), self.config.interval, self.planned_steps)
    }

    /// Lets the units train again that have been frozen for long enough, with [`Config::unfreeze`]: for a window, and twice as long
    /// each time that they froze again.
    fn tried_again(&mut self, step: usize) -> Vec<UnitId> {
        if !self.config.unfreeze {
            return Vec::new();
        }
        let window = self.config.auto.window(self.planned_steps).saturating_mul(self.config.interval);
        let mut tried = Vec::new();
        for (unit, state) in &mut self.units {
            let wait = window.saturating_mul(1_usize.checked_shl(state.tries).unwrap_or(usize::MAX));
            if state.frozen_at.is_some_and(|frozen_at| step - frozen_at >= wait) {
                *state = UnitState { tries: state.tries.saturating_add(1), ..UnitState::default() };
                if let Some(detector) = &mut self.detector {
                    detector.judge_anew(*unit);
                }
                tried.push(*unit);
            }
        }
        tried
    }

    /// The units that still train, each with its measurements made complete.
    fn training(&self, step: usize, measurements: &[(UnitId, Vec<Measurement>)]) -> Vec<(UnitId, Vec<Measurement>)> {
        let given: BTreeMap<UnitId, &[Measurement]> = measurements.iter().map(|(unit, m)| (*unit, &m[..])).collect();
        let span = self.span(step) as f64;
        let complete = |part: &Measurement| {
            let part = Measurement { weight_change: part.weight_change.map(|change| change / span), ..*part };
            if step == 1 { part.after_zero_gradient() } else { part }
        };
        let parts = |unit| given.get(unit).copied().unwrap_or_default().iter().map(complete).collect();
        let training = self.units.iter().filter(|(_, state)| state.frozen_at.is_none());
        training.map(|(unit, _)| (*unit, parts(unit))).collect()
    }

    fn stop_reason(&self) -> Option<StopReason> {
        let frozen = self.units.values().filter(|state| state.frozen_at.is_some()).count();
        if frozen == self.units.len() {
            Some(StopReason::AllFrozen)
        } else if frozen as f64 >= self.config.max_frozen_share * self.units.len() as f64 {
            Some(StopReason::MaxFrozenShare)
        } else {
            None
        }
    }

    /// Whether step `step` is measured: every `interval`-th, such that the first step after the grace period is.
    fn measured(&self, step: usize) -> bool {
        let interval = self.config.interval;
        step >= self.first_needed_step() && step % interval == (self.grace + 1) % interval
    }

    fn first_needed_step(&self) -> usize {
        if self.config.trace { 1 } else { self.first_deciding_step() }
    }

    /// The first step whose measurements decisions know of.
    fn first_deciding_step(&self) -> usize {
        match self.config.tau {
            Tau::Auto => self.config.auto.first_measured_step().min(self.grace + 1),
            _ => self.grace + 1,
        }
    }

    fn first_measured_step(&self) -> usize {
        let first = self.first_needed_step();
        (first..first + self.config.interval).find(|step| self.measured(*step)).unwrap_or(first)
    }

    /// The number of updates that a change of weights measured at `step` spans.
    fn span(&self, step: usize) -> usize {
        self.config.interval.min(step).max(1)
    }

    /// The options in use.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The last step observed, 0 before the first.
    pub fn last_step(&self) -> usize {
        self.last_step
    }

    /// The grace period in steps: decisions are made at later steps only.
    pub fn grace(&self) -> usize {
        self.grace
    }

    /// Every unit, in order.
    pub fn units(&self) -> impl Iterator<Item = UnitId> + '_ {
        self.units.keys().copied()
    }

    /// The frozen units, in order.
    pub fn frozen(&self) -> BTreeSet<UnitId> {
        self.units.iter().filter(|(_, state)| state.frozen_at.is_some()).map(|(unit, _)| *unit).collect()
    }

    /// Whether a unit is frozen; false for an unknown one.
    pub fn is_frozen(&self, unit: UnitId) -> bool {
        self.frozen_at(unit).is_some()
    }

    /// The step at which a unit froze.
    pub fn frozen_at(&self, unit: UnitId) -> Option<usize> {
        self.units.get(&unit)?.frozen_at
    }

    /// The companions that are frozen, by [`Config::companions`].
    pub fn frozen_companions(&self) -> BTreeSet<Companion> {
        match self.config.companions {
            Companions::Train => BTreeSet::new(),
            follow => follow.frozen_with(self.units.keys(), &self.frozen()),
        }
    }

    /// The threshold of a unit, for reports: with `tau: auto` the relative gradient change of pure noise.
    pub fn threshold(&self, unit: UnitId) -> Option<f64> {
        match self.config.tau {
            Tau::Auto => Some(self.config.auto.threshold(self.config.norm())),
            _ => self.config.tau.of(unit),
        }
    }

    /// How many measurements of a tensor it was given for units that still trained.
    pub fn measurements(&self) -> u64 {
        self.measurements
    }

    /// Everything decided so far.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// What must be saved to go on from here.
    pub fn state(&self) -> MonitorState {
        MonitorState {
            config: self.config.to_string(),
            planned_steps: self.planned_steps,
            last_step: self.last_step,
            stopped: self.stopped,
            measurements: self.measurements,
            units: self.units.clone(),
            detector: self.detector.clone(),
            events: self.events.clone(),
        }
    }

    /// Goes on from a saved state: all further decisions are those of a monitor that was never interrupted.
    ///
    /// # Errors
    /// If the state was saved with other options, units or planned steps. The monitor is then unchanged.
    pub fn restore(&mut self, state: MonitorState) -> Result<(), RestoreError> {
        let current = self.config.to_string();
        if state.config != current {
            return Err(RestoreError::Config { saved: state.config, current });
        }
        if state.planned_steps != self.planned_steps {
            return Err(RestoreError::PlannedSteps { saved: state.planned_steps, current: self.planned_steps });
        }
        check_units(state.units.keys(), self.units.keys())?;
        self.last_step = state.last_step;
        self.stopped = state.stopped;
        self.measurements = state.measurements;
        self.units = state.units;
        self.events = state.events;
        // A damaged file must not turn `auto` into "never".
        self.detector = self.detector.take().map(|_| state.detector.unwrap_or_default());
        Ok(())
    }
}
