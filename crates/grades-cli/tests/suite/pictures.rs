//! Verbs on models that read pictures, on the Qwen2.5-VL of the fixtures.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::Workspace;

/// The model, and a folder of pictures.
fn fixture() -> (String, String) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision").canonicalize().unwrap();
    let path = |name: &str| fixtures.join(name).to_str().unwrap().to_owned();
    (path("qwen2_5_vl_rows"), path("images"))
}

/// A config that trains the model on two rows.
pub(crate) fn config(workspace: &Workspace) {
    let (model, images) = fixture();
    let row = |question: &str, answer: &str| {
        let content = [json!({"type": "image", "image": "wide.png"}), json!({"type": "text", "text": question})];
        json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]})
            .to_string()
    };
    let rows = [row("what is in the picture?", "a red circle"), row("is it <b>wide</b>?", "yes")];
    fs::write(workspace.path("rows.jsonl"), rows.join("\n")).unwrap();
    let config = format!(
        "model: {model}\noutput_dir: seen\ndatasets: [{{path: rows.jsonl, type: messages, image_folder: {images}}}]\n\
         sequence_len: 400\nmicro_batch_size: 2\nmax_steps: 1\nlearning_rate: 0.001\n"
    );
    fs::write(workspace.path("seen.yaml"), config).unwrap();
}

/// Tokens are those of transformers.
#[test]
fn questions_about_pictures_are_answered() {
    let workspace = Workspace::new();
    let (model, images) = fixture();
    let (model, images) = (model.as_str(), images.as_str());
    let wide = format!("{images}/wide.png");
    let generate = |options: &[&str]| {
        let options =
            [&["generate", "--model", model, "--max-new-tokens", "12", "--image", wide.as_str()][..], options];
        workspace.call(&[&options.concat()[..], &["--json"]].concat())
    };
    let one: Value = serde_json::from_str(&generate(&["--prompt", "what is in the picture?"]).stdout()).unwrap();
    assert_eq!(one["tokens"], serde_json::json!([70, 78, 74, 86, 67, 26, 70, 78, 74, 86, 67, 26]));
    let two = ["--prompt", "<image>what is in the picture?", "--prompt", "which letter comes after b?"];
    let two: Value = serde_json::from_str(&generate(&two).stdout()).unwrap();
    assert_eq!((&two["texts"][0]["tokens"], &two["texts"][1]["prompt_tokens"]), (&one["tokens"], &47.into()));
    let error = generate(&["--prompt", "<image> and <image>"]).stderr();
    assert!(error.contains("2 <image>") && error.contains("1 pictures"), "{error}");
    let error = workspace.call(&["generate", "--model", "model", "--prompt", "what?", "--image", &wide]).stderr();
    assert!(error.contains("chat template") || error.contains("reads none"), "{error}");

    let row = |question: &str, answer: &str| {
        serde_json::json!({ "image": "wide.png", "question": question, "answer": answer }).to_string()
    };
    let answer = one["text"].as_str().unwrap();
    let rows = [row("what is in the picture?", answer), row("and what else?", "nothing"), row("why?", "nothing")];
    fs::write(workspace.path("mine.jsonl"), rows.join("\n")).unwrap();
    let eval = ["eval", "--model", model, "--tasks", "mine.jsonl", "--image-folder", images, "--max-new-tokens", "12"];
    let found = workspace.json(&[&eval[..], &["--precision", "f32", "--samples", "answers.jsonl"]].concat());
    let found = &found["tasks"]["mine.jsonl"];
    assert!((found["exact_match"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9, "{found}");
    assert!((found["commonest"]["value"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-9, "{found}");
    for key in ["prompt_tokens", "written_tokens", "exact_match_stderr", "seconds", "questions_per_second"] {
        assert!(found[key].as_f64().is_some(), "{key}: {found}");
    }
    assert_eq!(found["n"], 3);
    let lines = fs::read_to_string(workspace.path("answers.jsonl")).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["answer"], first["score"].as_f64()), (&answer.trim().into(), Some(1.0)));
    let text = workspace.call(&[&eval[..], &["--precision", "f32"]].concat()).stdout();
    assert!(text.contains("exact_match  33.33") && text.contains("always \"nothing\" 66.67"), "{text}");
}

#[test]
fn what_is_trained_on_can_be_seen() {
    let workspace = Workspace::new();
    config(&workspace);
    let preprocess = ["preprocess", "seen.yaml", "--debug", "2"];
    let found = workspace.json(&preprocess);
    assert_eq!((&found["samples"], &found["dropped_samples"]), (&2.into(), &0.into()));
    let shown = &found["shown"][0];
    let pieces = shown["pieces"].as_array().unwrap();
    // What stands before the picture, the picture, the question, and the answer with the end of its turn.
    assert_eq!(pieces[1]["picture"]["tokens"], 18, "{shown}");
    assert!(pieces[0]["read"].as_str().unwrap().starts_with("<|im_start|>system\n"), "{shown}");
    assert_eq!(pieces[3]["learnt"], "a red circle<|im_end|>");
    assert_eq!(shown["pictures"].as_array().unwrap().len(), 1);
    let lengths: Vec<u64> =
        found["lengths"].as_array().unwrap().iter().map(|length| length.as_u64().unwrap()).collect();
    assert_eq!(lengths.iter().sum::<u64>(), found["tokens"].as_u64().unwrap());

    let text = workspace.call(&preprocess).stdout();
    assert!(text.contains("[a red circle<|im_end|>]") && text.contains("⟨picture 1: 18 tokens⟩"), "{text}");
    assert!(text.contains("2, and 0 kept for validation") && text.contains("nothing is padded"), "{text}");
    assert!(text.contains("█") && !text.contains("\u{1b}"), "{text}");
    let packed = workspace.call(&["preprocess", "seen.yaml", "sample_packing=true"]).stdout();
    assert!(packed.contains("1 rows of 400 tokens"), "{packed}");

    let called = workspace.call(&[&preprocess[..], &["--html", "seen.html"]].concat());
    assert!(called.succeeded(), "{}", called.stderr());
    let html = fs::read_to_string(workspace.path("seen.html")).unwrap();
    assert!(html.contains("<mark>[a red circle&lt;|im_end|&gt;]</mark>") && html.contains("data:image/png;base64,"));
    assert!(html.contains("is it &lt;b&gt;wide") && !html.contains("<b>wide"));
    fs::write(workspace.path("mine.html"), "mine").unwrap();
    let error = workspace.call(&["preprocess", "seen.yaml", "--html", "mine.html"]).stderr();
    assert!(error.contains("mine.html"), "{error}");
    assert_eq!(fs::read_to_string(workspace.path("mine.html")).unwrap(), "mine");
}

#[test]
fn a_run_on_pictures_shows_some_of_them() {
    let workspace = Workspace::new();
    config(&workspace);
    workspace.json(&["train", "seen.yaml"]);
    let lines = fs::read_to_string(workspace.path("seen/samples.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 2);
    let html = fs::read_to_string(workspace.path("seen/report.html")).unwrap();
    assert!(html.contains("<h2>Samples</h2>") && html.contains("data:image/png;base64,"), "no samples");
    // The model of the run answers, too.
    let (_, images) = fixture();
    let image = format!("{images}/wide.png");
    let generate =
        ["generate", "--model", "seen/model", "--image", &image, "--prompt", "what?", "--max-new-tokens", "3"];
    assert_eq!(workspace.json(&generate)["tokens"].as_array().unwrap().len(), 3);
}

#[test]
fn a_chat_is_held_line_by_line() {
    let workspace = Workspace::new();
    let (model, images) = fixture();
    let chat = ["chat", &model, "--max-new-tokens", "6"];
    let lines = format!(
        "/image {images}/wide.png\nwhat is in the picture?\nand why?\n/save said.jsonl\n/reset\nwhich letter?\n/quit\nnot read\n"
    );
    let called = workspace.call_saying(&chat, &lines);
    assert!(called.succeeded(), "{}", called.stderr());
    assert_eq!(called.stdout().lines().count(), 3, "{}", called.stdout());
    let saved: Value = serde_json::from_str(&fs::read_to_string(workspace.path("said.jsonl")).unwrap()).unwrap();
    let messages = saved["messages"].as_array().unwrap();
    assert_eq!(messages[0], json!({"role": "user", "content": "<image>what is in the picture?"}));
    assert_eq!((messages.len(), saved["images"].as_array().unwrap().len()), (4, 1));
    // What was saved can be trained on.
    let config = format!(
        "model: {model}\noutput_dir: out\ndatasets: [{{path: said.jsonl, type: messages, image_folder: {images}}}]\n"
    );
    fs::write(workspace.path("said.yaml"), config).unwrap();
    assert_eq!(workspace.json(&["preprocess", "said.yaml"])["samples"], 1);
    // The same first answer in JSON, and the conversation as it was left.
    let found = workspace
        .call_saying(&[&chat[..], &["--json", "--system", "a helpful assistant."]].concat(), "which letter?\n");
    let found: Value = serde_json::from_str(&found.stdout()).unwrap();
    assert_eq!(found["messages"][0], json!({"role": "system", "content": "a helpful assistant."}));
    assert_eq!(found["messages"].as_array().unwrap().len(), 3);
    for (line, wanted) in [("/image none.png", "none.png"), ("/sing", "/reset"), ("/save said.jsonl", "said.jsonl")] {
        let called = workspace.call_saying(&chat, &format!("{line}\n"));
        assert!(!called.succeeded() && called.stderr().contains(wanted), "{line}: {}", called.stderr());
    }
    let error = workspace.call_saying(&["chat", "model"], "/image x.png\n").stderr();
    assert!(error.contains("reads no pictures"), "{error}");
}
