//! Tables and tests of made-up runs, by hand.

use std::path::Path;

use super::adapter::adapter_options;
use super::*;
use crate::config::{Config, ImageBackend};
use crate::eval::open::Where;
use grades_report::record::{Answer, WrittenAnswer};

/// A run of so many seconds, with a validation loss and answers to `qa` and `qb`.
fn finished(name: &str, seconds: f64, loss: f64, qa: &[u8], qb: &[u8]) -> Finished {
    let summary = serde_json::json!({
        "run_dir": name, "model_dir": format!("{name}/model"), "steps": 10, "planned_steps": 10, "stopped_by": null,
        "seconds": seconds, "validation_seconds": 0.5, "monitor_seconds": 0.25, "tokens": 100, "units": 14, "frozen_units": 7,
        "train_loss": 1.0, "val_loss": loss, "flops": { "forward": 600, "input_gradient": 200, "weight_gradient": 100 },
        "validation_flops": 80, "monitor_flops": 20, "peak_memory_bytes": 1000,
    });
    let answers = |task: &str, right: &[u8]| {
        let answer = |(index, acc): (usize, &u8)| {
            let (task, loglikelihoods) = (task.to_owned(), Vec::new());
            Given::Choice(Answer { task, index, loglikelihoods, target: 0, acc: *acc, acc_norm: 1 - acc })
        };
        (task.to_owned(), right.iter().enumerate().map(answer).collect())
    };
    Finished {
        run: name.into(),
        summary: serde_json::from_value(summary).unwrap(),
        answers: [answers("qa", qa), answers("qb", qb)].into(),
    }
}

/// A run that costs so many FLOPs, and its validation loss.
pub(super) fn costing(flops: f64, loss: f64) -> Finished {
    let mut run = finished("run", 1.0, loss, &[], &[]);
    let summary = &mut run.summary;
    summary.flops = grades::Flops { forward: flops as u64, ..Default::default() };
    (summary.validation_flops, summary.monitor_flops) = (0, 0);
    run
}

fn comparison() -> Comparison {
    let row = |adapter: &str, method: &str, runs: Vec<Finished>| Row {
        runs: (0..).zip(runs).collect(),
        ..Row::new(adapter, method)
    };
    let mut comparison = Comparison {
        metric: Metric::Acc,
        questions: vec![("qa".into(), 4), ("qb".into(), 2)],
        base: Some(finished("base", 0.0, 0.0, &[1, 0, 0, 0], &[0, 0]).answers),
        rows: vec![
            row(
                "full",
                "none",
                vec![
                    finished("a", 40.0, 3.0, &[0, 0, 0, 1], &[1, 0]),
                    finished("b", 60.0, 3.1, &[0, 0, 1, 1], &[1, 0]),
                ],
            ),
            row(
                "full",
                "grades",
                vec![
                    finished("c", 20.0, 3.2, &[1, 1, 1, 1], &[1, 1]),
                    finished("d", 30.0, 3.0, &[1, 0, 1, 1], &[0, 1]),
                ],
            ),
            row("lora", "none", vec![finished("e", 25.0, 3.0, &[1, 1, 1, 1], &[1, 1])]),
        ],
        tests: Vec::new(),
        frontiers: Vec::new(),
        failures: vec![Failure { name: "lora-none-seed1".into(), message: "no memory".into() }],
        planned: 6,
    };
    comparison.test();
    comparison
}

#[test]
fn tests_are_paired_by_seed_and_question() {
    let tests = comparison().tests;
    let named: Vec<_> = tests.iter().map(|test| (test.method.as_str(), test.task.as_str(), test.seeds)).collect();
    assert_eq!(named, [("grades", "qa", 2), ("grades", "qb", 2), ("grades", "average", 2)]);
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
    // Of qa the questions differ by 2, 1, 1, 0 over two seeds: +4 of 8. Signs of (2, 1, 1): all alike, 2 of 8.
    close(tests[0].difference, 0.5);
    close(tests[0].p, 0.25);
    // Of qb by −1 and 2: +1 of 4; |±1±2| is 1 or 3, always at least 1.
    close(tests[1].difference, 0.25);
    close(tests[1].p, 1.0);
    // The average weighs the questions of qa 1/4 as much as their task, those of qb 1/2, both halved by two tasks:
    // in sixteenths 2, 1, 1 and −2, 4, together 6. Of the 32 signs of (2, 1, 1, 2, 4) 16 reach 6: sums of 10 (1), 8 (2),
    // 6 (3), and as many again of the other sign, is 12.
    close(tests[2].difference, 0.375);
    close(tests[2].p, 12.0 / 32.0);
    // Holm: 0.25 · 3, 0.375 · 2, 1.
    close(tests[0].p_corrected, 0.75);
    close(tests[2].p_corrected, 0.75);
    assert!(tests.iter().all(Test::is_noise));
}

#[test]
fn ratios_are_against_none_with_all_parameters_and_with_the_same_adapter() {
    let json = comparison().json();
    let rows = json["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| (row["adapter"].as_str(), row["method"].as_str().unwrap())).collect();
    assert_eq!(names, [(None, "base"), (Some("full"), "none"), (Some("full"), "grades"), (Some("lora"), "none")]);
    assert_eq!(rows[0]["accuracy"]["qa"]["mean"], 0.25);
    assert_eq!(rows[2]["accuracy"]["qa"]["mean"], 0.875);
    // Accuracies 1 and 3/4: deviation 1/4 · √½.
    assert!((rows[2]["accuracy"]["qa"]["std"].as_f64().unwrap() - 0.25 / 2f64.sqrt()).abs() < 1e-12);
    assert_eq!(rows[2]["average"]["mean"], (0.875 + 0.75) / 2.0);
    assert_eq!((&rows[2]["seconds"]["mean"], &rows[2]["speedup"]), (&25.0.into(), &2.0.into()));
    // The one seed of lora against the same seed of full: 40 s / 25 s, and against itself.
    assert_eq!((&rows[3]["speedup"], &rows[3]["speedup_own"]), (&1.6.into(), &1.0.into()));
    assert_eq!((&rows[3]["flops"], &rows[3]["flops_ratio"]), (&1000.0.into(), &1.0.into()));
    assert_eq!(rows[3]["peak_memory_bytes"], 1000.0);
    assert_eq!(json["failed"][0]["name"], "lora-none-seed1");
}

#[test]
fn the_other_measure_counts_other_answers() {
    let mut comparison = Comparison { metric: Metric::AccNorm, ..comparison() };
    comparison.test();
    assert!((comparison.tests[0].difference + 0.5).abs() < 1e-12);
    assert_eq!(comparison.json()["rows"][0]["accuracy"]["qa"]["mean"], 0.75);
}

#[test]
fn tables_and_findings_say_it_in_words() {
    let comparison = comparison();
    let markdown = comparison.markdown();
    let before = markdown.lines().find(|line| line.contains("before training")).unwrap();
    assert_eq!(
        before.split('|').map(str::trim).collect::<Vec<_>>()[1..6],
        ["–", "before training", "25.0", "0.0", "12.5"]
    );
    assert!(markdown.contains("87.5 ± 17.7"), "{markdown}");
    let finding = &comparison.findings()[0];
    for part in [
        "full, grades against none",
        "qa +50.00 points, noise (p = 0.750)",
        "0.50 of the time",
        "1.00 of the FLOPs",
        "validation loss +0.0500, higher in 1 of 2 seeds",
    ] {
        assert!(finding.contains(part), "`{part}` is not in: {finding}");
    }
    assert!(
        comparison
            .findings()
            .iter()
            .any(|finding| finding.contains("lora-none-seed1") && finding.contains("no memory"))
    );
    let csv = comparison.csv();
    let mut lines = csv.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(head[..4], ["adapter", "method", "accuracy.qa", "accuracy.qa_std"]);
    let full: Vec<&str> = lines.nth(1).unwrap().split(',').collect();
    let of = |key: &str| full[head.iter().position(|of| *of == key).unwrap()];
    assert_eq!((of("seconds"), of("speedup"), of("accuracy.qa")), ("50", "1", "0.375"));
    let html = page::html("Comparison", &comparison, Path::new("."), &[]);
    assert!(html.contains("5 of 6 runs so far") && html.contains("<a href=\"a/report.html\">"), "{html}");
    // First what is seen at a glance.
    let place = |part: &str| html.find(part).unwrap_or_else(|| panic!("{part} is not in: {html}"));
    assert!(place("<h3>Accuracy against time, full</h3>") < place("<table class=\"sortable\">"));
    assert!(place("<h3>Accuracy against time, full</h3>") < place("<h3>Validation loss against time, full</h3>"));
}

#[test]
fn error_bars_are_means_and_deviations_over_the_seeds() {
    let mut comparison = comparison();
    let point = |length, runs| Point { length, learning_rate: 1e-4, runs };
    let runs = |flops: [f64; 2]| vec![(0, costing(flops[0], 3.5)), (1, costing(flops[1], 3.1))];
    let points = vec![point(0.5, runs([400.0, 600.0])), point(1.0, vec![(0, costing(1000.0, 3.0))])];
    comparison.frontiers = vec![Frontier { points, ..Frontier::new("full") }];
    let figures = comparison.against_cost();
    let named = |name: &str| {
        let figure = figures.iter().find(|figure| figure.name == name).unwrap();
        let grades_report::Drawing::Chart(chart) = &figure.drawing else { panic!("{name} is no chart") };
        chart.clone()
    };
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
    let bar = |found: Option<[f64; 2]>, [low, high]: [f64; 2]| {
        close(found.unwrap()[0], low);
        close(found.unwrap()[1], high);
    };
    // grades: 20 and 30 s; accuracies of qa 1 and 3/4, of qb 1 and 1/2, on average 1 and 5/8. Of two values the deviation is
    // their difference over √2: 10/√2 and (3/8)/√2.
    let chart = named("full-accuracy-time");
    let series = |chart: &grades_report::Chart, name: &str| {
        chart.series.iter().find(|series| series.name == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let grades = series(&chart, "grades");
    let half = std::f64::consts::FRAC_1_SQRT_2;
    assert_eq!(grades.points, [(25.0, Some(0.8125))]);
    bar(grades.spreads[0].x, [25.0 - 10.0 * half, 25.0 + 10.0 * half]);
    bar(grades.spreads[0].y, [0.8125 - 0.375 * half, 0.8125 + 0.375 * half]);
    // The frontier has a point where it was run: 400 and 600 with 3.5 and 3.1, and a single run without bars.
    let frontier = series(&named("full-loss-flops"), "without stopping");
    assert_eq!(frontier.points, [(500.0, Some(3.3)), (1000.0, Some(3.0))]);
    bar(frontier.spreads[0].x, [500.0 - 200.0 * half, 500.0 + 200.0 * half]);
    bar(frontier.spreads[0].y, [3.3 - 0.4 * half, 3.3 + 0.4 * half]);
    assert_eq!((frontier.spreads[1].x, frontier.spreads[1].y), (None, None));
    // With lora there is no frontier, and `none` has its colour of the other adapter.
    let lora = named("lora-accuracy-time");
    assert_eq!(lora.series.len(), 1);
    assert_eq!(series(&lora, "none").look, series(&chart, "none").look);
    assert_ne!(series(&lora, "none").look, grades.look);
}

#[test]
fn full_lets_go_of_every_option_that_only_adapters_have() {
    let data = "model: m\ndatasets: [{path: data.jsonl, type: completion}]\n";
    let options = [
        "lora_r: 4",
        "lora_alpha: 8",
        "lora_dropout: 0.1",
        "lora_target_linear: true",
        "lora_target_modules: [q_proj]",
        "peft_use_rslora: true",
        "peft_use_dora: true",
        "loraplus_lr_ratio: 16",
        "fold_frozen: true",
        "load_in_4bit: true",
    ];
    for option in options {
        let yaml = format!("{data}adapter: lora\n{option}\n");
        let with = |adapter| Config::parse(&yaml, &adapter_options(adapter));
        assert!(with("lora").unwrap().lora().is_some(), "{option}");
        assert_eq!(with("full").unwrap().lora(), None, "{option}");
        let alone = format!("{data}{option}\n");
        assert!(Config::parse(&alone, &[]).is_err() || option.contains("linear"), "{option}");
    }
}

#[test]
fn an_adapter_is_scored_beside_the_base_that_it_was_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data/piqa");
    std::fs::create_dir_all(&data).unwrap();
    let question = r#"{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}"#;
    std::fs::write(data.join("validation.jsonl"), question).unwrap();
    let data = folder.path().join("data");
    let questions = Questions::load(&["piqa"], &Where { data_dir: Some(&data), ..Where::default() }).unwrap();
    for load_in_4bit in [false, true] {
        let precision = crate::config::Precision::F32;
        let scored = ScoredModel {
            model: "model".into(),
            adapter: Some("adapter".into()),
            load_in_4bit,
            image_backend: ImageBackend::Auto,
            precision,
        };
        let mut jobs = Vec::new();
        let mut work = |job: &Job| {
            jobs.push(job.clone());
            Err("nothing is done here".to_owned())
        };
        assert!(questions.answers("run", &scored, &folder.path().join("eval"), &mut work).is_err());
        assert_eq!(jobs[0].to_string(), "run: scoring piqa");
        let [Job::Eval { model, tasks, .. }] = jobs.as_slice() else { panic!("{jobs:?}") };
        assert_eq!((model, tasks.as_slice()), (&scored, &["piqa".to_owned()][..]));
    }
}

#[test]
fn own_questions_are_asked_once_and_their_scores_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (choices, written) = (folder.path().join("choices.jsonl"), folder.path().join("written.jsonl"));
    std::fs::write(&choices, r#"{"question": "a", "choices": ["b", "c"], "answer": 1}"#).unwrap();
    let rows =
        "{\"question\": \"one?\", \"answer\": \"yes\"}\n{\"question\": \"two?\", \"answers\": [\"no\", \"none\"]}\n";
    std::fs::write(&written, rows).unwrap();
    let tasks = [&written, &choices, &written].map(|file| file.to_string_lossy().into_owned());
    let questions = Questions::load(&tasks, &Where::default()).unwrap();
    assert_eq!(questions.counts(), [("written".to_owned(), 2), ("choices".to_owned(), 1)]);
    let other = folder.path().join("choices.csv");
    std::fs::write(&other, "question,answer\na,b\n").unwrap();
    let twice = Questions::load(&[&tasks[1], &other.to_string_lossy().into_owned()], &Where::default()).unwrap_err();
    assert!(twice.to_string().ends_with("would both be called choices; rename one of the files"), "{twice}");

    let answer = |index: usize, question: &str, answers: &[&str], score: f64| WrittenAnswer {
        task: "own".into(),
        index,
        question: question.into(),
        answer: "yes".into(),
        answers: answers.iter().map(|answer| (*answer).to_owned()).collect(),
        score,
    };
    let said = [answer(0, "one?", &["yes"], 1.0), answer(1, "two?", &["no", "none"], 0.5)];
    let choice = r#"{"task": "multiple_choice", "index": 0, "loglikelihoods": [-2.0, -1.0], "target": 1, "acc": 1, "acc_norm": 0}"#;
    let precision = crate::config::Precision::F32;
    let scored = ScoredModel {
        model: "m".into(),
        adapter: None,
        load_in_4bit: false,
        image_backend: ImageBackend::Auto,
        precision,
    };
    let eval = folder.path().join("eval");
    let mut asked = 0;
    let mut work = |job: &Job| {
        let Job::Eval { tasks: of_job, samples, .. } = job else { panic!("{job:?}") };
        assert_eq!(of_job.as_slice(), &tasks[..2]);
        asked += 1;
        let lines: Vec<String> = said.iter().map(|one| serde_json::to_string(one).unwrap()).collect();
        std::fs::write(samples, format!("{}\n{choice}\n", lines.join("\n"))).map_err(|error| error.to_string())
    };
    let answers = questions.answers("run", &scored, &eval, &mut work).unwrap();
    assert_eq!(answers["written"], said.clone().map(Given::Written));
    assert_eq!(Metric::Acc.accuracy(&answers["written"]), Some(0.75));
    assert_eq!(
        [Metric::Acc, Metric::AccNorm].map(|metric| metric.accuracy(&answers["choices"])),
        [Some(1.0), Some(0.0)]
    );
    // What was answered once is not asked again, and counts for these very questions alone.
    assert_eq!(questions.answers("run", &scored, &eval, &mut work).unwrap(), answers);
    assert_eq!(asked, 1);
    std::fs::write(&written, rows.replace("none", "never")).unwrap();
    let changed = Questions::load(&tasks, &Where::default()).unwrap();
    let refused = changed.answers("run", &scored, &eval, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(refused, CompareError::OtherQuestions { path } if path == eval.join("written.jsonl")));
}

#[test]
fn the_excess_over_a_frontier_stands_first() {
    let mut comparison = comparison();
    let point = |length, flops, loss| Point { length, learning_rate: 1e-4, runs: vec![(0, costing(flops, loss))] };
    let points = vec![point(0.5, 500.0, 3.4), point(1.0, 1000.0, 3.1)];
    comparison.frontiers = vec![Frontier { points, ..Frontier::new("full") }];
    comparison.rows.push(Row {
        runs: vec![(0, finished("f", 20.0, 3.25, &[], &[])), (1, finished("g", 20.0, 3.2, &[], &[]))],
        ..Row::new("full", "random:grades")
    });
    // Every run costs 1,000: 3.0 and 3.2 against 3.1, of the first seed, which alone is in the frontier.
    let json = comparison.json();
    let excess = |row: usize| json["rows"][row]["excess"]["mean"].as_f64();
    assert!((excess(1).unwrap() + 0.1).abs() < 1e-12 && (excess(2).unwrap() - 0.1).abs() < 1e-12);
    assert_eq!((excess(0), excess(3)), (None, None));
    assert_eq!(json["frontiers"][0]["points"][0]["runs"][0]["flops"], 500.0);
    let markdown = comparison.markdown();
    let place = |title: &str| markdown.find(title).unwrap_or_else(|| panic!("{title} is not in: {markdown}"));
    assert!(place("## Excess over the frontier") < place("## Controls") && place("## Controls") < place("## Accuracy"));
    for part in [
        "full, grades: 0.1000 nats above the frontier of training without stopping at its own FLOPs, of one seed",
        "full, none: 0.1000 nats below",
        // 3.25 − 3.2 and 3.2 − 3.0.
        "full, random:grades: its loss is 0.1250 nats higher than that of grades, noise (p = 0.344)",
    ] {
        assert!(markdown.contains(part), "`{part}` is not in: {markdown}");
    }
    let html = page::html("Comparison", &comparison, Path::new("."), &[]);
    assert!(html.contains("Validation loss against time, full") && html.contains("Accuracy against arithmetic, full"));
    assert!(comparison.csv().lines().next().unwrap().contains(",excess,"));
}
