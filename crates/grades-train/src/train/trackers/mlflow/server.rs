//! MLflow's tracking server, over REST. A thread of its own sends, so that a step never waits for the network; what cannot be sent waits, and
//! what still waits a while after the end is given up.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grades_models::calendar;
use serde_json::{Value, json};
use ureq::Agent;

use super::super::{Opened, Tracks, Values, set};
use super::{TAG, named, parameters};
use crate::train::TrainError;

/// Most metrics and parameters of a request.
const METRICS: usize = 1000;
const PARAMETERS: usize = 100;

/// Most metrics that wait; then the oldest go.
const WAITING: usize = 500_000;

/// How long metrics are gathered, so that steps share a request.
const GATHER: Duration = Duration::from_secs(2);

/// The wait after a request has failed; it doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long the end of a run waits for what is to be sent.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run on a tracking server.
#[derive(Debug)]
pub(super) struct Server {
    uri: String,
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
}

/// What the run and the thread that sends share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Metric>,
    /// What MLflow calls how the run has ended.
    ended: Option<&'static str>,
    /// Nothing more is sent: all was, or the server does not want it.
    closed: bool,
}

#[derive(Clone, Debug)]
struct Metric {
    name: String,
    value: f64,
    time: u64,
    step: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    pub(super) fn open(opened: &Opened<'_>, uri: &str, experiment: &str) -> Self {
        Self::with_pauses(opened, uri, experiment, [GATHER, PAUSE, LONGEST_PAUSE])
    }

    fn with_pauses(opened: &Opened<'_>, uri: &str, experiment: &str, pauses: [Duration; 3]) -> Self {
        let uri = uri.trim_end_matches('/').to_owned();
        let shared = Arc::new(Shared::default());
        let client = Client {
            uri: uri.clone(),
            agent: Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(PATIENCE))
                .max_redirects(0)
                .user_agent(concat!("grades/", env!("CARGO_PKG_VERSION")))
                .build()
                .new_agent(),
            authorization: authorization(set),
            experiment: experiment.to_owned(),
            name: opened.name.clone(),
            id: opened.id.clone(),
            parameters: parameters(&opened.options),
            resumed: opened.resumed.is_some(),
            pauses,
            shared: shared.clone(),
        };
        let sender = thread::Builder::new().name("mlflow".to_owned()).spawn(move || client.send()).ok();
        Self { uri, shared, sender }
    }

    /// Waits until all is sent, or no longer; how much is not.
    fn finish(&mut self, status: &'static str, patience: Duration) -> usize {
        let until = Instant::now() + patience;
        let mut state = self.shared.state();
        state.ended = Some(status);
        self.shared.changed.notify_all();
        while !state.closed && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let left = state.waiting.len();
        let closed = std::mem::replace(&mut state.closed, true);
        self.shared.changed.notify_all();
        drop(state);
        if let Some(sender) = self.sender.take().filter(|_| closed) {
            let _ = sender.join();
        }
        if left > 0 {
            log::warn!("{}: {left} values could not be sent to MLflow; metrics.jsonl has everything", self.uri);
        }
        left
    }
}

impl Tracks for Server {
    fn step(&mut self, values: &Values) -> Result<(), TrainError> {
        let (time, step) = (values.time.as_millis() as u64, values.step);
        let mut state = self.shared.state();
        if state.closed {
            return Ok(());
        }
        let metrics = values.values.iter().map(|(name, value)| Metric { name: named(name), value: *value, time, step });
        state.waiting.extend(metrics);
        let over = state.waiting.len().saturating_sub(WAITING);
        state.waiting.drain(..over);
        if over > 0 {
            drop(state);
            grades_models::fields::warn_once(format!(
                "{}: it cannot be reached, and what has waited longest for it is dropped; metrics.jsonl has everything",
                self.uri
            ));
        }
        Ok(())
    }

    /// What waits is sent meanwhile.
    fn settle(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), TrainError> {
        self.finish("FINISHED", PATIENCE);
        Ok(())
    }
}

impl Drop for Server {
    /// An interrupted run waits less.
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.finish("KILLED", PATIENCE / 3);
        }
    }
}

/// The header that says who sends.
fn authorization(set: impl Fn(&str) -> Option<String>) -> Option<Secret> {
    let token = set("MLFLOW_TRACKING_TOKEN").map(|token| format!("Bearer {token}"));
    let basic = || {
        let (user, password) = (set("MLFLOW_TRACKING_USERNAME")?, set("MLFLOW_TRACKING_PASSWORD").unwrap_or_default());
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    };
    token.or_else(basic).map(Secret)
}

/// What no message shows.
struct Secret(String);

/// What sends.
struct Client {
    uri: String,
    agent: Agent,
    authorization: Option<Secret>,
    experiment: String,
    name: String,
    id: String,
    parameters: Vec<(String, String)>,
    resumed: bool,
    pauses: [Duration; 3],
    shared: Arc<Shared>,
}

/// Why a request came to nothing.
enum Failure {
    /// It may succeed later.
    Passing(String),
    /// It will not.
    Refused(String),
    /// What was asked for is not there.
    NotThere,
}

impl Client {
    /// Sends until the run has ended and nothing is left, or the server refuses.
    fn send(self) {
        let result = self.send_all();
        let mut state = self.shared.state();
        // Who has ended meanwhile has said what was left.
        if let (Err(problem), false) = (result, state.closed) {
            log::warn!("{}: {problem}; training goes on without MLflow, and metrics.jsonl has everything", self.uri);
            state.waiting.clear();
        }
        state.closed = true;
        self.shared.changed.notify_all();
    }

    fn send_all(&self) -> Result<(), String> {
        let (run, known) = self.run()?;
        for some in self.parameters.chunks(PARAMETERS).filter(|_| !self.resumed) {
            let params: Vec<Value> = some.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
            let sent = self.patiently(|| self.post("runs/log-batch", &json!({ "run_id": run, "params": params })));
            if let Err(problem) = sent {
                log::warn!("{}: MLflow does not take the run's parameters ({problem})", self.uri);
                break;
            }
        }
        loop {
            let metrics = self.gathered();
            let new: Vec<Value> = metrics
                .iter()
                .filter(|metric| known.get(&metric.name).is_none_or(|step| metric.step > *step))
                .map(|metric| {
                    let Metric { name, value, time, step } = metric;
                    json!({ "key": name, "value": value, "timestamp": time, "step": step })
                })
                .collect();
            if !new.is_empty() {
                self.patiently(|| self.post("runs/log-batch", &json!({ "run_id": run, "metrics": new })))?;
            }
            let mut state = self.shared.state();
            let sent = metrics.len().min(state.waiting.len());
            state.waiting.drain(..sent);
            match state.ended {
                _ if state.closed => return Ok(()),
                Some(status) if state.waiting.is_empty() => {
                    drop(state);
                    let end = calendar::now().as_millis() as u64;
                    let ended = json!({ "run_id": run, "status": status, "end_time": end });
                    return self.patiently(|| self.post("runs/update", &ended)).map(drop);
                }
                _ => {}
            }
        }
    }

    /// The next metrics: those of a moment, or all that a request holds. They stay in the queue until they are sent.
    fn gathered(&self) -> Vec<Metric> {
        let until = Instant::now() + self.pauses[0];
        let mut state = self.shared.state();
        while state.ended.is_none() && !state.closed && state.waiting.len() < METRICS {
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => {
                    state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => break,
            }
        }
        state.waiting.iter().take(METRICS).cloned().collect()
    }

    /// The run's id there, and of one that goes on the last step of each metric that it has.
    fn run(&self) -> Result<(String, HashMap<String, u64>), String> {
        let experiment = self.experiment()?;
        let wanted = json!({
            "experiment_ids": [experiment], "filter": format!("tags.`{TAG}` = '{}'", self.id), "max_results": 1,
        });
        // Also of a new run: it may have been made where the answer was lost.
        let make = || {
            let found = self.post("runs/search", &wanted)?;
            match found["runs"].get(0) {
                Some(run) => Ok(run.clone()),
                None => {
                    let tags = json!([
                        { "key": TAG, "value": self.id }, { "key": "mlflow.runName", "value": self.name },
                        { "key": "mlflow.source.type", "value": "LOCAL" },
                    ]);
                    let start = calendar::now().as_millis() as u64;
                    let new = json!({
                        "experiment_id": experiment, "start_time": start, "run_name": self.name, "tags": tags,
                    });
                    Ok(self.post("runs/create", &new)?["run"].clone())
                }
            }
        };
        let run = self.patiently(make)?;
        let id = run["info"]["run_id"].as_str().ok_or("it makes no run")?.to_owned();
        let last = run["data"]["metrics"].as_array().into_iter().flatten();
        let last = last.filter_map(|metric| {
            // Whole numbers come as numbers, or as texts.
            let step = metric["step"].as_u64().or_else(|| metric["step"].as_str()?.parse().ok())?;
            Some((metric["key"].as_str()?.to_owned(), step))
        });
        let last = last.collect();
        if self.resumed {
            self.patiently(|| self.post("runs/update", &json!({ "run_id": id, "status": "RUNNING" })))?;
        }
        Ok((id, last))
    }

    fn experiment(&self) -> Result<String, String> {
        let name = &self.experiment;
        let found = self.patiently(|| {
            let by_name = format!("{}/api/2.0/mlflow/experiments/get-by-name", self.uri);
            match self.answer(self.asking(self.agent.get(by_name).query("experiment_name", name)).call()) {
                Err(Failure::NotThere) => {
                    let made = self.post("experiments/create", &json!({ "name": name }))?;
                    Ok(made["experiment_id"].clone())
                }
                found => Ok(found?["experiment"]["experiment_id"].clone()),
            }
        })?;
        found.as_str().map(str::to_owned).ok_or_else(|| "it names no experiment".to_owned())
    }

    fn asking<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.authorization {
            Some(Secret(value)) => request.header("Authorization", value),
            None => request,
        }
    }

    fn post(&self, what: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(format!("{}/api/2.0/mlflow/{what}", self.uri));
        self.answer(self.asking(request).header("Content-Type", "application/json").send(body.to_string()))
    }

    fn answer(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
        let mut answer = answer.map_err(|error| Failure::Passing(error.to_string()))?;
        let text = answer.body_mut().read_to_string().map_err(|error| Failure::Passing(error.to_string()))?;
        let told: Value = serde_json::from_str(&text).unwrap_or_default();
        match answer.status().as_u16() {
            200 => Ok(told),
            404 if told["error_code"] == "RESOURCE_DOES_NOT_EXIST" => Err(Failure::NotThere),
            status @ (429 | 500..) => Err(Failure::Passing(format!("it answers {status}"))),
            status @ (401 | 403) => Err(Failure::Refused(format!(
                "it answers {status}; set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            ))),
            status => {
                let said =
                    told["message"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
                Err(Failure::Refused(format!("it answers {status} {}", said.chars().take(200).collect::<String>())))
            }
        }
    }

    /// Repeats what may succeed later, for as long as the run goes on.
    fn patiently<T>(&self, send: impl Fn() -> Result<T, Failure>) -> Result<T, String> {
        let [_, mut pause, longest] = self.pauses;
        let mut warned = false;
        loop {
            match send() {
                Ok(value) => return Ok(value),
                Err(Failure::Refused(problem)) => return Err(problem),
                Err(Failure::NotThere) => return Err("what was made there is gone".to_owned()),
                Err(Failure::Passing(problem)) => {
                    let state = self.shared.state();
                    if state.closed {
                        return Err(problem);
                    }
                    if !std::mem::replace(&mut warned, true) {
                        grades_models::fields::warn_once(format!(
                            "{}: MLflow cannot be reached ({problem}); training goes on, and what it is told waits",
                            self.uri
                        ));
                    }
                    drop(self.shared.changed.wait_timeout(state, pause));
                    pause = (2 * pause).min(longest);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
