//! `serve` over real sockets, with a model of one token a letter.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::{fs, thread};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grades_models::Inputs;
use grades_models::generate::{Limits, generate};
use grades_models::sampling::{Sampler, SamplingOptions};
use grades_models::tokenizer::Around;
use grades_train::chat::Chat;
use grades_train::config::{ImageBackend, Precision};
use grades_train::data::{Encode, Picture};
use grades_train::loaded::{Loaded, Loading};
use grades_train::serve::{Options, Server};
use grades_train::train::Interrupt;
use serde_json::{Value, json};

use crate::runs::exclusive;
use crate::tiny_checkpoint;

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

fn open(folder: &Path) -> Loaded {
    let options = Loading {
        adapter: None,
        fold_adapter: false,
        load_in_4bit: false,
        image_backend: ImageBackend::Auto,
        precision: Precision::F32,
    };
    Loaded::open(folder, options).unwrap()
}

fn ordinary() -> Options {
    Options { name: "tiny".to_owned(), ..Options::default() }
}

/// A server until it is dropped.
struct Running {
    address: SocketAddr,
    interrupt: Interrupt,
    thread: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
    _counters: MutexGuard<'static, ()>,
}

impl Running {
    fn start(options: Options) -> Self {
        let counters = exclusive();
        let folder = tempfile::tempdir().unwrap();
        tiny_checkpoint::write(folder.path(), "llama");
        fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).unwrap();
        let path = folder.path().to_owned();
        Self::of((path, folder), options, counters)
    }

    /// With the model in that folder.
    fn of((path, folder): (PathBuf, tempfile::TempDir), options: Options, counters: MutexGuard<'static, ()>) -> Self {
        let server = Server::bind(Options { port: 0, ..options }).unwrap();
        let (address, interrupt) = (server.address(), Interrupt::default());
        let asked = interrupt.clone();
        let thread = thread::spawn(move || server.run(&open(&path), &asked).unwrap());
        Self { address, interrupt, thread: Some(thread), folder, _counters: counters }
    }

    fn ordinary() -> Self {
        Self::start(ordinary())
    }

    fn end(&mut self) {
        self.interrupt.signal().store(15, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// The status and the body of an answer.
    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        self.post_with(path, body.to_string().as_bytes(), &[("Content-Type", "application/json")])
    }

    fn post_with(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> (u16, String) {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut request = agent.post(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send(body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut answer = agent.get(format!("http://{}{path}", self.address)).call().unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.post(path, body);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The events of a stream, whose last is the mark of its end.
    fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = true.into();
        let (status, text) = self.post(path, &body);
        assert_eq!(status, 200, "{text}");
        let mut events: Vec<&str> =
            text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    fn complete(&self, body: Value) -> Value {
        self.ask("/v1/completions", &body)["choices"][0].clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A prompt that is drawn behind with a seed, letters alone: special tokens and rows of the embedding without a token have no text.
fn drawn(seed: u64, more: Value) -> Value {
    let without_text: serde_json::Map<String, Value> =
        (0..3).chain(74..96).map(|id| (id.to_string(), (-100).into())).collect();
    let mut body = json!({ "model": "tiny", "prompt": "the red fox", "max_tokens": 30, "temperature": 1.5, "seed": seed,
                           "logit_bias": without_text });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn user(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

const CHAT: &str = "/v1/chat/completions";

#[test]
fn likeliest_tokens_are_those_of_generate() {
    let server = Running::ordinary();
    let loaded = open(server.folder.path());
    for prompt in ["the red fox", "an old bell rings over the quiet river"] {
        let ids = loaded.encoder().encode(prompt, Around::Beginning).unwrap().ids;
        let limits = Limits { max_new_tokens: 20, stop: loaded.ends(false).unwrap() };
        let mut greedy = Sampler::new(SamplingOptions::default()).unwrap();
        let inputs = Inputs::sample(ids.clone());
        let expected = generate(&loaded.model, &loaded.tokenizer, &inputs, &limits, &mut greedy, |_| {}).unwrap();
        let whole = server.ask(
            "/v1/completions",
            &json!({ "model": "tiny", "prompt": [prompt, ids], "max_tokens": 20, "temperature": 0 }),
        );
        assert_eq!((whole["object"].as_str(), whole["model"].as_str()), (Some("text_completion"), Some("tiny")));
        for choice in whole["choices"].as_array().unwrap() {
            assert_eq!(choice["text"], expected.text);
            assert_eq!(choice["finish_reason"], if expected.finished { "stop" } else { "length" });
        }
        let (read, written) = (2 * ids.len(), 2 * expected.tokens.len());
        let usage = json!({ "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written });
        assert_eq!(whole["usage"], usage);
    }
}

#[test]
fn a_stream_has_the_pieces_of_the_whole() {
    let server = Running::ordinary();
    let body = json!({ "messages": user("a red fox?"), "max_completion_tokens": 25, "seed": 3, "n": 2,
                       "logprobs": true, "top_logprobs": 2 });
    let whole = server.ask(CHAT, &body);
    let mut streamed = body.clone();
    streamed["stream_options"] = json!({ "include_usage": true });
    let mut events = server.stream(CHAT, streamed);
    let last = events.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let own: Vec<&Value> =
            events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == index).collect();
        assert_eq!(own[0]["delta"], json!({ "role": "assistant", "content": "" }));
        let (end, pieces) = own[1..].split_last().unwrap();
        assert_eq!(end["finish_reason"], choice["finish_reason"]);
        assert!(pieces.len() > 5 && pieces.iter().all(|piece| piece["finish_reason"].is_null()));
        let text: String = pieces.iter().map(|piece| piece["delta"]["content"].as_str().unwrap()).collect();
        assert_eq!(choice["message"]["content"], text);
        let told = pieces.iter().flat_map(|piece| piece["logprobs"]["content"].as_array().into_iter().flatten());
        assert_eq!(choice["logprobs"]["content"], Value::Array(told.cloned().collect()));
    }
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["usage"].is_null()));
}

#[test]
fn a_text_ends_before_a_stop_that_lies_over_several_tokens() {
    let server = Running::ordinary();
    let text = server.complete(drawn(5, json!({})))["text"].as_str().unwrap().to_owned();
    // Three tokens from the middle, and something that begins as they do.
    let letters: Vec<char> = text.chars().collect();
    let stop: String = letters[8..11].iter().collect();
    let other: String = letters[4..6].iter().collect::<String>() + "\u{1f98a}";
    let wanted = text.split(&stop).next().unwrap();
    for stops in [json!(stop), json!([other, stop])] {
        let asked = drawn(5, json!({ "stop": stops, "logprobs": 0 }));
        let choice = server.complete(asked.clone());
        assert_eq!((choice["text"].as_str(), choice["finish_reason"].as_str()), (Some(wanted), Some("stop")));
        assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), wanted.chars().count());
        let pieces = server.stream("/v1/completions", asked);
        let pieces = pieces.iter().map(|event| event["choices"][0]["text"].as_str().unwrap());
        assert_eq!(pieces.collect::<String>(), wanted);
    }
}

#[test]
fn what_is_drawn_does_not_depend_on_what_is_written_beside_it() {
    let server = Running::start(Options { parallel: 5, ..ordinary() });
    let alone = server.complete(drawn(7, json!({})));
    assert_eq!(alone["text"].as_str().unwrap().chars().count(), 30);
    assert_ne!(server.complete(drawn(8, json!({})))["text"], alone["text"]);
    thread::scope(|scope| {
        let others: Vec<_> = (0..6)
            .map(|other| {
                let server = &server;
                let body = drawn(other, json!({ "prompt": "x".repeat(1 + 9 * other as usize), "max_tokens": 60 }));
                scope.spawn(move || (0..3).map(|_| server.complete(body.clone())).collect::<Vec<_>>())
            })
            .collect();
        for _ in 0..10 {
            assert_eq!(server.complete(drawn(7, json!({}))), alone);
        }
        for other in others {
            let texts = other.join().unwrap();
            assert!(texts.iter().all(|text| *text == texts[0]));
        }
    });
    // Each answer to a prompt has a seed of its own.
    let several = server.ask("/v1/completions", &drawn(6, json!({ "n": 2 })));
    assert_eq!(several["choices"][1]["text"], alone["text"]);
    // Without one, no two are the same.
    let free = || server.complete(drawn(0, json!({ "seed": null })));
    assert_ne!(free()["text"], free()["text"]);
}

/// Natural logarithms of the softmax of each row of logits.
fn log_softmax(logits: &[f32], vocabulary: usize) -> Vec<Vec<f64>> {
    let of_row = |row: &[f32]| {
        let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        row.iter().map(|&logit| f64::from(logit) - total.ln()).collect()
    };
    logits.chunks_exact(vocabulary).map(of_row).collect()
}

#[test]
fn logprobs_are_those_of_a_forward_pass() {
    let server = Running::ordinary();
    let loaded = open(server.folder.path());
    let asked = drawn(9, json!({ "echo": true, "logprobs": 3, "max_tokens": 6, "prompt": "the small boat" }));
    let choice = server.complete(asked);
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with("the small boat") && text.chars().count() == 20, "{text}");
    let ids = loaded.encoder().encode(text, Around::Beginning).unwrap().ids;
    let logits = loaded.model.logits(&Inputs::sample(ids.clone()));
    let expected = log_softmax(&logits.to_host(), loaded.model.sizes().vocab_size);
    let told = &choice["logprobs"];
    let names: Vec<String> = ids.iter().map(|&id| loaded.tokenizer.decode(&[id], false)).collect();
    assert_eq!(told["tokens"], json!(names));
    let lengths = names.iter().scan(0, |at, name| Some(std::mem::replace(at, *at + name.chars().count())));
    assert_eq!(told["text_offset"], json!(lengths.collect::<Vec<_>>()));
    assert!(told["token_logprobs"][0].is_null() && told["top_logprobs"][0].is_null());
    for place in 1..ids.len() {
        let expected = &expected[place - 1];
        let found = told["token_logprobs"][place].as_f64().unwrap();
        assert!((found - expected[ids[place] as usize]).abs() < 1e-5, "{place}: {found}");
        let mut likely = expected.clone();
        likely.sort_unstable_by(|one, other| other.total_cmp(one));
        let mut top: Vec<f64> =
            told["top_logprobs"][place].as_object().unwrap().values().map(|value| value.as_f64().unwrap()).collect();
        top.sort_unstable_by(|one, other| other.total_cmp(one));
        assert!(top.iter().zip(&likely).take(3).all(|(one, other)| (one - other).abs() < 1e-5), "{place}: {top:?}");
    }
    // A chat tells the same of each token that it writes.
    let body = json!({ "messages": user("a boat"), "seed": 1, "max_tokens": 5, "logprobs": true, "top_logprobs": 1 });
    let chat = server.ask(CHAT, &body);
    let answer = chat["choices"][0]["message"]["content"].as_str().unwrap();
    let prompt = "user: a boat\nassistant: ";
    let ids = loaded.encoder().encode(&format!("{prompt}{answer}"), Around::Template).unwrap().ids;
    let logits = loaded.model.logits(&Inputs::sample(ids.clone()));
    let expected = log_softmax(&logits.to_host(), loaded.model.sizes().vocab_size);
    let told = chat["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(told.len(), 5);
    for (place, told) in (ids.len() - 5..).zip(told) {
        let expected = &expected[place - 1];
        assert!((told["logprob"].as_f64().unwrap() - expected[ids[place] as usize]).abs() < 1e-5, "{told}");
        let top = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!((told["top_logprobs"][0]["logprob"].as_f64().unwrap() - top).abs() < 1e-5, "{told}");
        assert_eq!(told["bytes"], json!(told["token"].as_str().unwrap().as_bytes()));
    }
}

#[test]
fn logits_are_changed_as_asked() {
    let server = Running::ordinary();
    let loaded = open(server.folder.path());
    let id = loaded.tokenizer.id("q").unwrap();
    let text = |more: Value| server.complete(drawn(1, more))["text"].as_str().unwrap().to_owned();
    assert_eq!(text(json!({ "logit_bias": { id.to_string(): 100 }, "max_tokens": 4 })), "qqqq");
    // What was written once is as good as forbidden.
    let all = text(json!({ "presence_penalty": 2, "temperature": 0.01, "logit_bias": { id.to_string(): 100 } }));
    assert!(all.starts_with("qq"), "{all}");
    let greedy = text(json!({ "temperature": 0 }));
    assert_eq!(text(json!({ "top_k": 1 })), greedy);
    assert_eq!(text(json!({ "min_p": 1 })), greedy);
    assert_eq!(text(json!({ "top_p": 1e-6 })), greedy);
    let mut letters: Vec<char> = text(json!({ "temperature": 0, "repetition_penalty": 100 })).chars().collect();
    letters.truncate(20);
    letters.sort_unstable();
    let count = letters.len();
    letters.dedup();
    assert!(letters.len() >= count - 2, "{letters:?}");
}

#[test]
fn a_refusal_names_what_is_wrong() {
    let server = Running::start(Options { max_body: 3_000, max_new_tokens: 50, max_queue: 4, ..ordinary() });
    let of_chat = |more: Value| {
        let mut body = json!({ "model": "tiny", "messages": user("hi"), "max_tokens": 2 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, status, param) in [
        (json!({ "model": "gpt" }), 404, "model"),
        (json!({ "messages": [] }), 400, "messages"),
        (json!({ "messages": [{ "role": "robot", "content": "a" }] }), 400, "messages[0]"),
        (json!({ "messages": [{ "role": "user" }] }), 400, "messages[0]"),
        (json!({ "messages": [{ "role": "user", "content": [{ "type": "input_audio" }] }] }), 400, "messages[0]"),
        (json!({ "messages": user(&"a".repeat(200)) }), 400, "messages"),
        (json!({ "max_tokens": 51 }), 400, "max_tokens"),
        (json!({ "max_tokens": 0 }), 400, "max_tokens"),
        (json!({ "max_completion_tokens": 9 }), 400, "max_tokens"),
        (json!({ "temperature": "hot" }), 400, "temperature"),
        (json!({ "top_p": 0 }), 400, "top_p"),
        (json!({ "top_p": 1.5 }), 400, "top_p"),
        (json!({ "n": 5 }), 400, "n"),
        (json!({ "top_logprobs": 2 }), 400, "top_logprobs"),
        (json!({ "logit_bias": { "a": 1 } }), 400, "logit_bias"),
        (json!({ "logit_bias": { "5": 1, "96": 1 } }), 400, "logit_bias"),
        (json!({ "stop": "" }), 400, "stop"),
        (json!({ "stream_options": {} }), 400, "stream_options"),
        (json!({ "response_format": { "type": "json_object" } }), 400, "response_format"),
        (json!({ "reasoning_effort": "low" }), 400, "reasoning_effort"),
        (json!({ "tools": [{ "type": "function" }] }), 400, "messages"),
        (json!({ "tool_choice": "required" }), 400, "tool_choice"),
        (json!({ "temprature": 1 }), 400, "temprature"),
    ] {
        let (found, text) = server.post(CHAT, &of_chat(more.clone()));
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((found, error["error"]["param"].as_str()), (status, Some(param)), "{more}: {text}");
        let name = param.split('[').next().unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains(name), "{text}");
    }
    let fine = of_chat(json!({ "user": "me", "metadata": {}, "top_k": null, "response_format": { "type": "text" } }));
    assert_eq!(server.post(CHAT, &fine).0, 200);
    let as_json = [("Content-Type", "application/json")];
    assert_eq!(server.post_with(CHAT, b"{", &as_json).0, 400);
    assert_eq!(server.post_with(CHAT, b"[]", &as_json).0, 400);
    assert_eq!(server.post_with(CHAT, fine.to_string().as_bytes(), &[("Content-Type", "text/plain")]).0, 415);
    let large = of_chat(json!({ "messages": user(&"a".repeat(4_000)) }));
    assert_eq!(server.post(CHAT, &large).0, 413);
    assert_eq!(server.post("/v1/models", &json!({})).0, 405);
    assert_eq!(server.get(CHAT).0, 405);
    assert_eq!(server.get("/v2").0, 404);
    assert_eq!(server.get("/v1/models/gpt").0, 404);
    assert_eq!(server.get("/v1/models").1["data"][0]["id"], "tiny");
    assert_eq!(server.get("/v1/models/tiny").1["object"], "model");
}

#[test]
fn who_has_no_key_is_turned_away() {
    let server = Running::start(Options { api_key: Some("secret".to_owned()), ..ordinary() });
    let body = json!({ "prompt": "a", "max_tokens": 1 }).to_string();
    let with = |key: &str| {
        server.post_with(
            "/v1/completions",
            body.as_bytes(),
            &[("Content-Type", "application/json"), ("Authorization", key)],
        )
    };
    assert_eq!(with("Bearer secret").0, 200);
    for key in ["Bearer secre", "Bearer secrets", "Bearer ", "Basic secret", "secret"] {
        let (status, text) = with(key);
        assert_eq!(status, 401, "{key}");
        assert!(text.contains("invalid_api_key") && !text.contains("secret"), "{text}");
    }
    assert_eq!(server.get("/v1/models").0, 401);
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn clients_that_misbehave_harm_nobody_else() {
    let server = Running::start(Options { parallel: 1, max_queue: 2, ..ordinary() });
    let long = drawn(1, json!({ "max_tokens": 100, "stream": true })).to_string();
    let head = |length: usize| {
        format!("POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
    };
    for _ in 0..20 {
        // One that goes away as soon as it has asked, or after the first event, and one in the middle of its request.
        let mut client = TcpStream::connect(server.address).unwrap();
        client.write_all((head(long.len()) + &long).as_bytes()).unwrap();
        drop(client);
        let mut client = TcpStream::connect(server.address).unwrap();
        client.write_all((head(long.len()) + &long).as_bytes()).unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(client);
        let mut client = TcpStream::connect(server.address).unwrap();
        client.write_all((head(long.len()) + &long[..20]).as_bytes()).unwrap();
    }
    let mut client = TcpStream::connect(server.address).unwrap();
    client.write_all(&[b"GET / HTTP/1.1\r\n", "x: y\r\n".repeat(10_000).as_bytes()].concat()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Two requests in one go, on a connection that stays, and a third one that closes it.
    let mut client = TcpStream::connect(server.address).unwrap();
    let get = "GET /health HTTP/1.1\r\n\r\n";
    let last = "GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n";
    client.write_all(format!("{get}{get}{last}").as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((answer.matches("HTTP/1.1 200 OK").count(), answer.matches("\"tiny\"").count()), (3, 1), "{answer}");
    // The place of those that left becomes free: as many texts as may wait are written in the end.
    let whole = drawn(1, json!({ "n": 2 }));
    let mut attempts = (0..500).map(|_| {
        let (status, text) = server.post("/v1/completions", &whole);
        assert!(status == 200 || status == 503, "{text}");
        thread::sleep(std::time::Duration::from_millis(20));
        status
    });
    assert!(attempts.any(|status| status == 200));
}

/// The package of OpenAI asks for a model by its name in the path, where a slash is written otherwise.
#[test]
fn a_model_may_have_an_owner_in_its_name() {
    let server = Running::start(Options { name: "ann/a model".to_owned(), ..Options::default() });
    let (status, model) = server.get("/v1/models/ann%2Fa%20model");
    assert_eq!((status, &model["id"]), (200, &json!("ann/a model")));
    let (status, error) = server.get("/v1/models/ann%2Fa%20mode");
    assert!(status == 404 && error["error"]["message"].as_str().unwrap().contains("\"ann/a mode\""), "{error}");
}

/// Tokens that come one upon another leave no moment of waiting in which the time would be looked at.
#[test]
fn a_text_that_is_written_fast_has_its_time_as_well() {
    let server = Running::start(Options { timeout: std::time::Duration::ZERO, ..ordinary() });
    for more in [json!({}), json!({ "stream": true })] {
        let (status, text) = server.post("/v1/completions", &drawn(1, more));
        assert!(status == 504 && text.contains("\"timeout\""), "{status} {text}");
    }
}

#[test]
fn a_server_ends_when_it_is_asked_to() {
    let mut server = Running::ordinary();
    assert_eq!(server.get("/health").1, json!({ "status": "ok" }));
    // A connection that nothing is asked over does not hold it up.
    let idle = TcpStream::connect(server.address).unwrap();
    server.end();
    drop(idle);
    assert!(TcpStream::connect(server.address).is_err());
}

/// A message of a text and the picture of that name.
fn showing(name: &str, text: &str) -> Value {
    let bytes = fs::read(tiny_checkpoint::fixture("vision/images").join(name)).unwrap();
    let url = format!("data:image/png;base64,{}", STANDARD.encode(bytes));
    json!([{ "role": "user", "content": [
        { "type": "image_url", "image_url": { "url": url } },
        { "type": "text", "text": text },
    ] }])
}

/// What a chat on the same picture says, also among other requests, of which some have pictures.
#[test]
fn pictures_are_shown_to_a_model_that_reads_them() {
    for name in ["qwen2_5_vl_rows", "nanovlm_split"] {
        let counters = exclusive();
        let path = tiny_checkpoint::fixture("vision").join(name);
        let mut chat = Chat::new(open(&path));
        let mut expected = |picture: &str, text: &str| {
            let file = tiny_checkpoint::fixture("vision/images").join(picture);
            let mut greedy = Sampler::new(SamplingOptions::default()).unwrap();
            chat.reset();
            let show = |_: &str| std::ops::ControlFlow::Continue(());
            chat.say(text, vec![Picture::File(file.into())], 8, &mut greedy, show).unwrap()
        };
        let questions = [
            ("wide.png", "what is in the picture?"),
            ("small.png", "what is in the picture?"),
            ("small.png", "and why?"),
        ];
        let answers = questions.map(|(picture, text)| expected(picture, text));
        assert!(answers.iter().any(|answer| answer.text != answers[0].text), "{name}: {answers:?}");
        let server = Running::of((path, tempfile::tempdir().unwrap()), ordinary(), counters);
        let body = |messages: Value| json!({ "messages": messages, "max_tokens": 8, "temperature": 0 });
        let told = |(picture, text): (&str, &str), n: usize| {
            let mut body = body(showing(picture, text));
            body["n"] = n.into();
            let answer = server.ask(CHAT, &body);
            let texts = answer["choices"].as_array().unwrap().iter().map(|one| one["message"]["content"].clone());
            (texts.collect::<Vec<_>>(), answer["usage"].clone())
        };
        for (question, answer) in questions.into_iter().zip(&answers) {
            let (texts, usage) = told(question, 2);
            assert_eq!(texts, [answer.text.as_str(); 2], "{name}, {question:?}");
            assert_eq!(usage["completion_tokens"], 2 * answer.tokens.len(), "{usage}");
        }
        let alone = server.ask(CHAT, &body(user("what is in a picture?")))["choices"][0]["message"]["content"].clone();
        thread::scope(|scope| {
            for _ in 0..2 {
                for (question, answer) in questions.into_iter().zip(&answers) {
                    let told = &told;
                    scope.spawn(move || assert_eq!(told(question, 1).0, [answer.text.as_str()], "{question:?}"));
                }
                scope.spawn(|| {
                    let beside = server.ask(CHAT, &body(user("what is in a picture?")));
                    assert_eq!(beside["choices"][0]["message"]["content"], alone);
                });
            }
        });
        // What cannot be shown is refused, and the server goes on.
        let with = |url: &str| {
            let mut messages = showing("small.png", "what?");
            messages[0]["content"][0]["image_url"]["url"] = url.into();
            server.post(CHAT, &body(messages))
        };
        for (url, wanted) in [
            ("https://example.org/a.png", "data:image/png;base64"),
            ("data:image/png;base64,AAAA", "picture"),
            ("data:image/png;base64,?", "base64"),
        ] {
            let (status, text) = with(url);
            assert!(status == 400 && text.contains(wanted), "{name}, {url}: {status} {text}");
        }
        assert_eq!(told(questions[0], 1).0, [answers[0].text.as_str()]);
    }
    let server = Running::ordinary();
    let body = json!({ "messages": showing("small.png", "what?"), "max_tokens": 3 });
    let (status, text) = server.post(CHAT, &body);
    assert!(status == 400 && text.contains("reads none"), "{status} {text}");
}
