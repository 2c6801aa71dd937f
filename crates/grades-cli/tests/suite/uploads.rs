//! Models that are brought to the Hugging Face Hub, played by a server on this machine.

use std::collections::BTreeSet;
use std::fs;

use crate::program::{Called, Workspace};
use crate::writable_hub::{Fault, WritableHub};

const TOKEN: &str = "hf_mayWrite";

fn hub() -> WritableHub {
    let hub = WritableHub::new();
    hub.state().token = Some(TOKEN.to_owned());
    hub
}

fn call(workspace: &Workspace, hub: &WritableHub, token: &str, arguments: &[&str]) -> Called {
    workspace.call_with(&[("HF_ENDPOINT", &hub.endpoint), ("HF_TOKEN", token)], arguments)
}

/// The names of the files in a folder.
fn names(workspace: &Workspace, folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(workspace.path(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[track_caller]
fn refused(called: &Called, parts: &[&str]) {
    let told = called.stderr();
    assert!(!called.succeeded() && told.starts_with("error: ") && told.lines().count() == 1, "{told}");
    assert!(parts.iter().all(|part| told.contains(part)) && !told.contains(TOKEN), "{told}");
}

#[test]
fn a_run_is_uploaded_with_a_card_and_once() {
    let (workspace, hub) = (Workspace::new(), hub());
    let trained = workspace.call(&["train", "config.yaml", "adapter=lora"]);
    assert!(trained.succeeded(), "{}", trained.stderr());
    // One of an older version has no card.
    fs::remove_file(workspace.path("run/adapter/README.md")).unwrap();
    let upload = ["upload", "run", "owner/tiny", "--private"];
    refused(&workspace.call_with(&[("HF_ENDPOINT", &hub.endpoint)], &upload), &["HF_TOKEN"]);
    refused(&call(&workspace, &hub, "other", &upload), &["/owner/tiny", "does not know the token"]);
    assert!(!workspace.path("run/adapter/README.md").exists());

    let uploaded = call(&workspace, &hub, TOKEN, &upload);
    assert!(uploaded.succeeded(), "{}", uploaded.stderr());
    assert!(uploaded.stdout().contains("/owner/tiny: "), "{}", uploaded.stdout());
    let there = hub.files("main");
    assert_eq!(there.keys().cloned().collect::<BTreeSet<_>>(), names(&workspace, "run/adapter"));
    for (name, contents) in &there {
        assert_eq!(*contents, fs::read(workspace.path("run/adapter").join(name)).unwrap(), "{name}");
    }
    let card = String::from_utf8(there["README.md"].clone()).unwrap();
    assert!(
        card.starts_with("---\n") && card.contains("library_name: peft") && card.contains("| steps | 3 of 3"),
        "{card}"
    );
    assert_eq!(hub.state().repositories["owner/tiny"]["visibility"], "private");

    let again = call(&workspace, &hub, TOKEN, &[&upload[..], &["--json"]].concat());
    let again: serde_json::Value = serde_json::from_str(&again.stdout()).unwrap();
    assert!(again["commit"].is_null() && again["sent_bytes"] == 0, "{again}");
    assert_eq!(hub.state().commits.len(), 1);
    refused(&call(&workspace, &hub, TOKEN, &["upload", "none", "owner/tiny"]), &["none", "no such folder"]);
    refused(&call(&workspace, &hub, TOKEN, &["upload", "run", "tiny"]), &["`tiny`", "owner/name"]);
}

#[test]
fn a_run_uploads_its_model_at_its_end() {
    let (workspace, hub) = (Workspace::new(), hub());
    let train = ["train", "config.yaml", "hub_model_id=owner/tiny", "hub_revision=v1"];
    refused(&call(&workspace, &hub, "other", &train), &["does not know the token"]);
    refused(&workspace.call(&train), &["HF_HUB_OFFLINE"]);
    assert!(!workspace.path("run").exists(), "nothing is trained that cannot be uploaded");

    let trained = call(&workspace, &hub, TOKEN, &train);
    assert!(trained.succeeded(), "{}", trained.stderr());
    assert!(trained.stdout().contains("uploaded      "), "{}", trained.stdout());
    let there = hub.files("v1");
    assert_eq!(there.keys().cloned().collect::<BTreeSet<_>>(), names(&workspace, "run/model"));
    assert!(String::from_utf8_lossy(&there["README.md"]).contains("# tiny\n"));

    // Where the Hub fails, the run is there all the same, and the same call tries again.
    let again = ["train", "config.yaml", "hub_model_id=owner/tiny", "output_dir=second", "resume_from_checkpoint=auto"];
    hub.state().faults.push(("POST /api/models/owner/tiny/commit", Fault::Answer("400 Bad Request", "", "")));
    let failed = call(&workspace, &hub, TOKEN, &again);
    assert!(!failed.succeeded() && workspace.path("second/summary.json").is_file(), "{}", failed.stderr());
    assert!(failed.stderr().contains("grades upload") && !failed.stderr().contains(TOKEN), "{}", failed.stderr());
    assert!(hub.requests().iter().any(|request| request.starts_with("PUT")));
    // Through cut connections, and without what has arrived.
    hub.state().faults.push(("POST /api/models/owner/tiny/preupload", Fault::CutRequest));
    hub.state().faults.push(("POST /api/models/owner/tiny/commit", Fault::CutAnswer));
    let uploaded = call(&workspace, &hub, TOKEN, &again);
    assert!(uploaded.succeeded(), "{}", uploaded.stderr());
    assert!(!hub.requests().iter().any(|request| request.starts_with("PUT")));
    assert_eq!(hub.files("main").len(), names(&workspace, "second/model").len());
    refused(
        &workspace.call(&["compare", "config.yaml", "--methods", "none", "hub_model_id=owner/tiny"]),
        &["`hub_model_id`", "grades upload"],
    );
}

/// What the commits say, in order.
fn said(hub: &WritableHub) -> Vec<String> {
    hub.state().commits.iter().map(|commit| commit["summary"].as_str().unwrap().to_owned()).collect()
}

const AT_EACH_STEP: [&str; 6] =
    ["train", "config.yaml", "hub_model_id=owner/tiny", "max_steps=4", "save_steps=1", "early_stopping=none"];

#[test]
fn a_model_is_uploaded_with_each_save_while_training_goes_on() {
    let (workspace, hub) = (Workspace::new(), hub());
    let train = [&AT_EACH_STEP[..], &["hub_strategy=every_save"]].concat();
    let trained = call(&workspace, &hub, TOKEN, &train);
    assert!(trained.succeeded(), "{}", trained.stderr());
    // One that waited may have given way, but not to nothing.
    let said = said(&hub);
    assert!((2..=4).contains(&said.len()), "{said:?}");
    assert_eq!(said[said.len() - 2..], ["Training in progress, step 3", "Upload with grades"]);
    let there = hub.files("main");
    assert_eq!(there.keys().cloned().collect::<BTreeSet<_>>(), names(&workspace, "run/model"));
    for (name, contents) in &there {
        assert_eq!(*contents, fs::read(workspace.path("run/model").join(name)).unwrap(), "{name}");
    }
    assert!(!workspace.path("run/hub").exists());

    // What the Hub does not take is told, and stops nothing.
    hub.state().faults.push(("POST /api/models/owner/tiny/commit", Fault::Answer("400 Bad Request", "", "")));
    let trained = call(&workspace, &hub, TOKEN, &[&train[..], &["output_dir=second", "seed=7"]].concat());
    assert!(trained.succeeded(), "{}", trained.stderr());
    let events = fs::read_to_string(workspace.path("second/events.jsonl")).unwrap();
    let failed: Vec<&str> = events.lines().filter(|line| line.contains("upload_failed")).collect();
    assert!(failed.len() == 1 && failed[0].contains("owner/tiny") && !failed[0].contains(TOKEN), "{failed:?}");
    let model = fs::read(workspace.path("second/model/model.safetensors")).unwrap();
    assert_eq!(hub.files("main")["model.safetensors"], model);
    refused(
        &workspace.call(&["train", "config.yaml", "hub_model_id=owner/tiny", "hub_strategy=every_save"]),
        &["`hub_strategy`", "save_steps"],
    );
}

#[test]
fn a_run_goes_on_from_the_last_checkpoint_on_the_hub() {
    let (workspace, hub) = (Workspace::new(), hub());
    let train = [&AT_EACH_STEP[..], &["adapter=lora", "hub_strategy=checkpoint"]].concat();
    let trained = call(&workspace, &hub, TOKEN, &train);
    assert!(trained.succeeded(), "{}", trained.stderr());
    let there = hub.files("main");
    let last: Vec<(&str, &Vec<u8>)> =
        there.iter().filter_map(|(path, contents)| Some((path.strip_prefix("last-checkpoint/")?, contents))).collect();
    let own = names(&workspace, "run/checkpoints/step-000003");
    assert_eq!(last.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>(), own);
    assert_eq!(there.len(), own.len() + names(&workspace, "run/adapter").len());
    fs::create_dir(workspace.path("last")).unwrap();
    last.iter().for_each(|(name, contents)| fs::write(workspace.path("last").join(name), contents).unwrap());
    let options = ["adapter=lora", "output_dir=next", "resume_from_checkpoint=last"];
    let next = workspace.call(&[&AT_EACH_STEP[..2], &AT_EACH_STEP[3..], &options].concat());
    assert!(next.succeeded(), "{}", next.stderr());
    let adapter = |run: &str| fs::read(workspace.path(run).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("next") == adapter("run"));
}

#[test]
fn all_checkpoints_are_on_the_hub_also_those_that_are_gone_here() {
    let (workspace, hub) = (Workspace::new(), hub());
    let train = [&AT_EACH_STEP[..], &["hub_strategy=all_checkpoints", "save_total_limit=1"]].concat();
    let trained = call(&workspace, &hub, TOKEN, &train);
    assert!(trained.succeeded(), "{}", trained.stderr());
    assert_eq!(names(&workspace, "run/checkpoints"), BTreeSet::from(["step-000003".to_owned()]));
    let there = hub.files("main");
    for step in 1..=3 {
        let state = &there[&format!("checkpoints/step-{step:06}/state.json")];
        let state: serde_json::Value = serde_json::from_slice(state).unwrap();
        assert_eq!(state["ledger"]["steps"], step);
        assert!(there.contains_key(&format!("checkpoints/step-{step:06}/weights.safetensors")));
    }
    assert!(there.contains_key("model.safetensors") && there.contains_key("README.md"));
}
