//! Runs on conversations: the chat template that was trained with stays with what was trained.

use std::fs;

use grades_train::config::{ImageBackend, Precision};
use grades_train::loaded::{Loaded, Loading};
use serde_json::json;

use crate::runs::Workspace;
use crate::tiny_checkpoint::write_rows;

const TEMPLATE: &str = "{{ mood }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

#[test]
fn the_template_of_a_run_is_saved_with_its_model_or_adapter() {
    let workspace = Workspace::new();
    let talk = |n: usize| {
        json!({ "messages": [{ "role": "user", "content": format!("the {n}") },
        { "role": "assistant", "content": "red fox" }] })
    };
    write_rows(&workspace.path("data.jsonl"), (0..16).map(talk));
    fs::write(workspace.path("t.jinja"), TEMPLATE).unwrap();
    let template = format!("chat_template_jinja={}", workspace.path("t.jinja").display());
    let options = ["datasets.0.type=messages", "max_steps=2", "chat_template_kwargs={mood: calm}", &template];
    let whole = workspace.train("whole", &options);
    let lora = workspace.train("lora", &[&options[..], &["adapter=lora"]].concat());
    let opened = |model: &std::path::Path, adapter: Option<&std::path::Path>| {
        let loading = Loading {
            adapter,
            fold_adapter: false,
            load_in_4bit: false,
            image_backend: ImageBackend::Auto,
            precision: Precision::F32,
        };
        Loaded::open(model, loading).unwrap().tokenizer.chat_template().map(str::to_owned)
    };
    assert_eq!(opened(&whole.path.join("model"), None).as_deref(), Some(TEMPLATE));
    let base = workspace.path("model");
    assert_eq!(opened(&base, Some(&lora.path.join("adapter"))).as_deref(), Some(TEMPLATE));
    assert_ne!(opened(&base, None).as_deref(), Some(TEMPLATE));
}
