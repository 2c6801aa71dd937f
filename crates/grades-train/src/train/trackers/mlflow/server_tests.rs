use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use super::*;
use crate::config::Config;

/// A tracking server of one experiment, which answers as long as a test runs.
struct FakeServer {
    uri: String,
    state: Arc<Mutex<Told>>,
}

/// What it was told.
#[derive(Default)]
struct Told {
    requests: Vec<String>,
    authorization: Vec<String>,
    experiment: bool,
    run: Option<Value>,
    params: Vec<Value>,
    metrics: Vec<Value>,
    updates: Vec<Value>,
    /// Answers that come first.
    faults: Vec<&'static str>,
    /// How often what was told is done, and the answer lost.
    lost: usize,
}

impl FakeServer {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Told::default()));
        let told = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let head: Vec<String> =
                    reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let header = |name: &str| {
                    let of = head.iter().find(|line| line.to_ascii_lowercase().starts_with(name));
                    of.map(|line| line[name.len() + 1..].trim().to_owned())
                };
                let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
                reader.read_exact(&mut body).unwrap();
                let path = head[0].split(' ').nth(1).unwrap().to_owned();
                let mut told = told.lock().unwrap();
                told.authorization.extend(header("authorization"));
                let (status, answer) = match told.faults.pop() {
                    Some(fault) => (fault, json!({ "message": "not now" })),
                    None => told.answer(&path, &serde_json::from_slice(&body).unwrap_or_default()),
                };
                if told.lost > 0 {
                    told.lost -= 1;
                    continue;
                }
                let answer = answer.to_string();
                let length = answer.len();
                let text =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}");
                stream.write_all(text.as_bytes()).unwrap();
            }
        });
        Self { uri, state }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap()
    }

    fn open(&self, resumed: Option<usize>) -> Server {
        let config = Config::default();
        let options = json!({ "seed": 42 });
        let opened = Opened {
            run: "run".as_ref(),
            name: "first".to_owned(),
            id: "f".repeat(32),
            config: &config,
            options,
            resumed,
        };
        Server::with_pauses(&opened, &self.uri, "piqa", [Duration::from_millis(2); 3])
    }
}

impl Told {
    fn answer(&mut self, path: &str, body: &Value) -> (&'static str, Value) {
        let what = path.strip_prefix("/api/2.0/mlflow/").unwrap();
        self.requests.push(what.to_owned());
        let list = |key: &str| body[key].as_array().cloned().unwrap_or_default();
        let answer = match what {
            "experiments/get-by-name?experiment_name=piqa" if !self.experiment => {
                return ("404 Not Found", json!({ "error_code": "RESOURCE_DOES_NOT_EXIST" }));
            }
            "experiments/get-by-name?experiment_name=piqa" => json!({ "experiment": { "experiment_id": "7" } }),
            "experiments/create" => {
                assert!(!std::mem::replace(&mut self.experiment, true) && body["name"] == "piqa");
                json!({ "experiment_id": "7" })
            }
            "runs/search" => {
                assert_eq!(body["filter"], format!("tags.`grades.run_id` = '{}'", "f".repeat(32)));
                json!({ "runs": self.run.iter().collect::<Vec<_>>() })
            }
            "runs/create" => {
                assert!(self.run.is_none() && body["experiment_id"] == "7" && body["run_name"] == "first");
                let run = json!({ "info": { "run_id": "r1" }, "data": {} });
                self.run = Some(run.clone());
                json!({ "run": run })
            }
            "runs/log-batch" => {
                assert!(body["run_id"] == "r1" && list("metrics").len() <= METRICS);
                self.params.extend(list("params"));
                self.metrics.extend(list("metrics"));
                json!({})
            }
            "runs/update" => {
                self.updates.push(body["status"].clone());
                json!({})
            }
            other => panic!("{other}"),
        };
        ("200 OK", answer)
    }
}

fn tell(server: &mut Server, steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        let values = vec![("train/loss".to_owned(), step as f64 / 2.0)];
        server.step(&Values { step, seconds: 0.0, time: Duration::from_millis(9), values }).unwrap();
    }
}

/// The steps of the metrics that arrived, in order.
fn steps(told: &Told) -> Vec<u64> {
    told.metrics.iter().map(|metric| metric["step"].as_u64().unwrap()).collect()
}

#[test]
fn a_run_is_made_told_and_ended() {
    let fake = FakeServer::new();
    let mut server = fake.open(None);
    tell(&mut server, 1..=2500);
    server.end().unwrap();
    let told = fake.told();
    assert_eq!(steps(&told), (1..=2500).collect::<Vec<_>>());
    let first = json!({ "key": "train/loss", "value": 0.5, "timestamp": 9, "step": 1 });
    assert_eq!((&told.metrics[0], &told.params[..]), (&first, &[json!({ "key": "seed", "value": "42" })][..]));
    assert_eq!(told.updates, ["FINISHED"]);
}

#[test]
fn a_resumed_run_goes_on_in_the_same_one() {
    let fake = FakeServer::new();
    let mut server = fake.open(None);
    tell(&mut server, 1..=3);
    drop(server);
    // As the server would tell it: the last value of each metric.
    fake.told().run.as_mut().unwrap()["data"] = json!({ "metrics": [{ "key": "train/loss", "step": 3 }] });
    let mut server = fake.open(Some(1));
    tell(&mut server, 2..=5);
    server.end().unwrap();
    let told = fake.told();
    assert_eq!(steps(&told), [1, 2, 3, 4, 5]);
    assert_eq!(told.params.len(), 1);
    assert_eq!(told.updates, ["KILLED", "RUNNING", "FINISHED"]);
}

#[test]
fn what_cannot_be_sent_waits_and_what_is_refused_is_given_up() {
    let fake = FakeServer::new();
    fake.told().faults = vec!["503 Service Unavailable"; 5];
    fake.told().lost = 7;
    let mut server = fake.open(None);
    tell(&mut server, 1..=3);
    server.end().unwrap();
    assert_eq!(steps(&fake.told()), [1, 2, 3]);

    let fake = FakeServer::new();
    fake.told().faults = vec!["403 Forbidden"];
    let mut server = fake.open(None);
    tell(&mut server, 1..=3);
    server.end().unwrap();
    tell(&mut server, 4..=4);
    assert_eq!((fake.told().requests.len(), server.shared.state().waiting.len()), (0, 0));
}

#[test]
fn a_server_that_is_not_there_stops_nothing() {
    let fake = FakeServer { uri: "http://127.0.0.1:1".to_owned(), state: Arc::default() };
    let mut server = fake.open(None);
    tell(&mut server, 1..=3);
    assert_eq!(server.finish("FINISHED", Duration::from_millis(50)), 3);
}

#[test]
fn who_sends_is_told_and_not_shown() {
    let of = |variables: &[(&str, &str)]| {
        let set = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        authorization(set).map(|Secret(value)| value)
    };
    assert_eq!(of(&[("MLFLOW_TRACKING_TOKEN", "t"), ("MLFLOW_TRACKING_USERNAME", "u")]), Some("Bearer t".to_owned()));
    // `printf 'u:p' | base64`.
    let basic = of(&[("MLFLOW_TRACKING_USERNAME", "u"), ("MLFLOW_TRACKING_PASSWORD", "p")]);
    assert_eq!(basic, Some("Basic dTpw".to_owned()));
    assert_eq!(of(&[]), None);
}
