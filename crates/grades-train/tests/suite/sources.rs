//! What a run takes its samples from: several sets, mixed, and sets to validate on.

use std::fs;

use grades_train::train::Preview;

use crate::resuming::after;
use crate::runs::Workspace;
use crate::tiny_checkpoint;

/// A workspace with a second set of 6 sentences, `more.jsonl`, the first 2 of which are also in the first.
fn two_sets() -> Workspace {
    let workspace = Workspace::new();
    tiny_checkpoint::write_sentences(&workspace.path("all.jsonl"), 24);
    let text = fs::read_to_string(workspace.path("all.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(workspace.path("more.jsonl"), [&lines[..2], &lines[20..]].concat().join("\n")).unwrap();
    workspace
}

fn sets(workspace: &Workspace, key: &str, names: &[&str]) -> String {
    let set = |name: &&str| format!("{{path: {}, type: completion}}", workspace.path(name).display());
    format!("{key}=[{}]", names.iter().map(set).collect::<Vec<_>>().join(", "))
}

#[test]
fn each_set_has_its_loss_and_all_have_the_mean_over_tokens() {
    let workspace = two_sets();
    let (data, more) = ("data.jsonl", "more.jsonl");
    let still = ["learning_rate=0", "max_steps=2", "eval_steps=1"];
    let of = |name: &str, names: &[&str]| {
        let tests = sets(&workspace, "test_datasets", names);
        workspace.train(name, &[&still[..], &[&tests]].concat())
    };
    let [one, other] = [of("one", &[data]), of("other", &[more])].map(|run| run.summary.val_loss.unwrap());
    assert!((one - other).abs() > 1e-3);
    let both = of("both", &[data, more]);
    let losses = both.summary.val_losses.clone().unwrap();
    assert_eq!(losses.keys().collect::<Vec<_>>(), ["data", "more"]);
    assert!((losses["data"] - one).abs() < 1e-6 && (losses["more"] - other).abs() < 1e-6, "{losses:?}");
    let all = both.summary.val_loss.unwrap();
    assert!(all > one.min(other) && all < one.max(other));
    assert_eq!(both.metrics()[0]["val_losses"]["data"], losses["data"]);
    assert_eq!(both.json("environment.json")["validation_samples"], 26);
    assert_eq!(both.json("environment.json")["samples"], 20);
    // With one alone there is nothing to tell apart.
    assert!(of("alone", &[data]).summary.val_losses.is_none());
}

#[test]
fn mixes_have_as_many_samples_as_their_strategy_says_and_none_that_was_kept_back() {
    let workspace = two_sets();
    let names = sets(&workspace, "datasets", &["data.jsonl", "more.jsonl"]);
    let samples = |name: &str, options: &[&str]| {
        let run = workspace.train(name, &[&[names.as_str(), "max_steps=1"], options].concat());
        let environment = run.json("environment.json");
        (environment["samples"].as_u64().unwrap(), environment["validation_samples"].as_u64().unwrap())
    };
    assert_eq!(samples("concat", &[]), (26, 0));
    assert_eq!(samples("under", &["mix_strategy=under"]), (12, 0));
    assert_eq!(samples("over", &["mix_strategy=over"]), (40, 0));
    assert_eq!(samples("unique", &["dataset_exact_deduplication=true"]), (24, 0));
    assert_eq!(samples("first", &["max_samples=3"]), (6, 0));
    let (mixed, kept) = samples("kept", &["mix_strategy=over", "val_set_size=5"]);
    assert!(kept == 5 && (30..=40).contains(&mixed), "{mixed}");
}

/// A mix is drawn from the seed, so a run that goes on takes the same samples.
#[test]
fn a_resumed_mix_goes_on_as_if_it_had_not_stopped() {
    let workspace = two_sets();
    let names = sets(&workspace, "datasets", &["data.jsonl", "more.jsonl"]);
    let options =
        [names.as_str(), "mix_strategy=over", "interleave_probs=[0.4, 0.6]", "save_steps=3", "sample_packing=true"];
    let whole = workspace.train("whole", &options);
    let resume = format!("resume_from_checkpoint={}", whole.path.join("checkpoints/step-000003").display());
    let resumed = workspace.train("resumed", &[&options[..], &[&resume]].concat());
    assert_eq!(resumed.weights(), whole.weights());
    assert_eq!(resumed.metric("/loss"), whole.metric("/loss")[3..]);
}

/// Sets of one sentence a sample, streamed: what is validated on is read whole.
#[test]
fn a_streamed_run_that_goes_on_is_the_same_to_the_bit() {
    let workspace = two_sets();
    let (names, tests) = (
        sets(&workspace, "datasets", &["data.jsonl", "more.jsonl"]),
        sets(&workspace, "test_datasets", &["more.jsonl"]),
    );
    for (name, more) in [
        ("plain", &["shuffle_buffer_size=7"][..]),
        (
            "packed",
            &["sample_packing=true", "streaming_multipack_buffer_size=5", "sequence_len=60", "micro_batch_size=1"],
        ),
        ("mixed", &["mix_strategy=over", "interleave_probs=[0.5, 0.5]", "early_stopping={method: grades, tau: auto}"]),
    ] {
        let options =
            [&[names.as_str(), tests.as_str(), "streaming=true", "save_steps=3", "eval_steps=4"][..], more].concat();
        let whole = workspace.train(name, &options);
        assert_eq!(whole.summary.steps, 8, "{name}");
        assert!(whole.summary.val_loss.is_some() && whole.metrics()[3]["val_loss"].is_f64());
        assert!(whole.json("environment.json")["samples"].is_null());
        let resume = format!("resume_from_checkpoint={}", whole.path.join("checkpoints/step-000003").display());
        let resumed = workspace.train(&format!("{name}-resumed"), &[&options[..], &[&resume]].concat());
        assert_eq!(resumed.weights(), whole.weights(), "{name}");
        assert_eq!(after(resumed.metrics(), 3), after(whole.metrics(), 3), "{name}");
        assert_eq!(after(resumed.signals(), 3), after(whole.signals(), 3), "{name}");
        assert_eq!(after(resumed.events(), 3), after(whole.events(), 3), "{name}");
    }
}

/// Without shuffling and packing a stream gives the samples in the order in which they would be in memory.
#[test]
fn a_stream_trains_as_what_is_in_memory() {
    let workspace = two_sets();
    let names = sets(&workspace, "datasets", &["data.jsonl"]);
    let shared = [names.as_str(), "shuffle_merged_datasets=false", "max_steps=5"];
    let memory = workspace.train("memory", &shared);
    let streamed = workspace.train("streamed", &[&shared[..], &["streaming=true"]].concat());
    assert_eq!(streamed.weights(), memory.weights());
    assert!(streamed.metric("/data_seconds").iter().all(|seconds| *seconds >= 0.0));
}

/// A mistake in a row that is only read later ends the run there, with the row's place.
#[test]
fn a_wrong_row_of_a_stream_is_named_when_it_comes() {
    let workspace = two_sets();
    let text = fs::read_to_string(workspace.path("data.jsonl")).unwrap();
    fs::write(workspace.path("wrong.jsonl"), format!("{text}{{\"prompt\": 3}}\n")).unwrap();
    let names = sets(&workspace, "datasets", &["wrong.jsonl"]);
    let options = [names.as_str(), "streaming=true", "shuffle_merged_datasets=false", "save_steps=1"];
    let error = workspace.attempt("wrong", &options).unwrap_err().to_string();
    assert!(error.contains("wrong.jsonl:21"), "{error}");
    assert!(workspace.path("wrong/checkpoints/step-000004").exists());
}

/// Questions of one's own, one of which is a training row.
#[test]
fn questions_in_the_training_data_are_counted_and_named() {
    let workspace = Workspace::new();
    let long = "the old boat in the garden by the river likes the small red lantern more than the bell";
    let row = |question: &str| serde_json::json!({"question": question, "choices": ["a bell", "a kite"], "answer": 0});
    tiny_checkpoint::write_rows(&workspace.path("own.jsonl"), [row(long), row("what is it")].into_iter());
    let text = serde_json::json!({"prompt": format!("so {long}"), "completion": " kite"});
    tiny_checkpoint::write_rows(
        &workspace.path("train.jsonl"),
        (0..5).map(|at| match at {
            3 => text.clone(),
            _ => serde_json::json!({"prompt": "the old boat in the", "completion": format!(" garden {at}")}),
        }),
    );
    let names = sets(&workspace, "datasets", &["train.jsonl"]);
    let tasks = format!("contamination=[{}]", workspace.path("own.jsonl").display());
    let preview = Preview::of(&workspace.config("run", &[&names, &tasks]), 0).unwrap();
    let found = preview.contamination.unwrap();
    assert_eq!((found.rows, found.benchmarks[0].found, found.benchmarks[0].short), (1, 1, 1));
    assert!(found.first[0].ends_with("train.jsonl:4"), "{found}");
    assert_eq!((preview.samples, preview.duplicates), (5, 0));
}

/// What is kept trains as what was encoded, and is made once; other contents are another entry.
#[test]
fn encoded_samples_are_kept_and_found_again() {
    let workspace = two_sets();
    let folder = workspace.path("prepared");
    let names = sets(&workspace, "datasets", &["data.jsonl", "more.jsonl"]);
    let tests = sets(&workspace, "test_datasets", &["more.jsonl"]);
    let kept = format!("dataset_prepared_path={}", folder.display());
    let entries = || fs::read_dir(&folder).map_or(0, |entries| entries.count());
    let options = [names.as_str(), tests.as_str(), "sequence_len=30", "excess_length_strategy=truncate"];
    let without = workspace.train("without", &options);
    let options = [&options[..], &[&kept]].concat();
    Preview::of(&workspace.config("any", &options), 0).unwrap();
    // Of the training data and of what is validated on.
    assert_eq!(entries(), 2);
    let time =
        fs::metadata(fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path()).unwrap().modified().unwrap();
    let with = workspace.train("with", &[&options[..], &["mix_strategy=concat"]].concat());
    assert_eq!(with.weights(), without.weights());
    assert_eq!(with.summary.val_loss, without.summary.val_loss);
    let counts = |run: &crate::runs::Run| run.json("environment.json")["truncated_samples"].clone();
    assert_eq!(counts(&with), counts(&without));
    assert_eq!(entries(), 2);
    let again =
        fs::metadata(fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path()).unwrap().modified().unwrap();
    assert_eq!(again, time);
    let text = fs::read_to_string(workspace.path("data.jsonl")).unwrap();
    fs::write(workspace.path("data.jsonl"), text.replace("red", "green")).unwrap();
    Preview::of(&workspace.config("any", &options), 0).unwrap();
    assert_eq!(entries(), 3);
}
