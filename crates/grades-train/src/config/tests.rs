use grades_models::LoraConfig;

use super::*;
use crate::data::TrainOnEos;
use crate::data::packing::Packing;
use crate::train::rule::{Adam, AdjustLrFn, Rule};

const MINIMAL: &str = "model: m\ndatasets:\n  - {path: d.jsonl, type: completion}\n";

fn parse(yaml: &str, overrides: &[&str]) -> Result<Config, ConfigError> {
    Config::parse(yaml, &overrides.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
}

#[track_caller]
fn error(yaml: &str, overrides: &[&str], wanted: &[&str]) {
    let error = parse(yaml, overrides).unwrap_err().to_string();
    for wanted in wanted {
        assert!(error.contains(wanted), "`{wanted}` is not in: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_minimal_config_has_the_defaults() {
    let config = parse(MINIMAL, &[]).unwrap();
    let defaults = Config { model: config.model.clone(), datasets: config.datasets.clone(), ..Config::default() };
    assert_eq!(config, defaults);
    assert_eq!((config.datasets[0].path.as_str(), config.datasets[0].kind.as_str()), ("d.jsonl", "completion"));
}

#[test]
fn an_option_without_a_value_has_its_default() {
    let config =
        parse(&format!("{MINIMAL}weight_decay:\nseed: null\nearly_stopping: {{tau: null}}\n"), &["lr_scheduler="])
            .unwrap();
    assert_eq!(config, parse(MINIMAL, &[]).unwrap());
}

const FULL: &str = r#"
model: models/tiny.gguf
output_dir: runs/a
datasets:
  - path: data/piqa
    type: piqa
    split: train[:1000]
  - path: chat.jsonl
    type: chat_template
    field_messages: turns
val_set_size: 0.05
sequence_len: 256
excess_length_strategy: drop
sample_packing: true
train_on_inputs: yes
micro_batch_size: 4
gradient_accumulation_steps: 2
num_epochs: 6
max_steps: 120
learning_rate: 5e-5
lr_scheduler: linear
warmup_ratio: 0.05
optimizer: adamw_torch
weight_decay: 0.01
adam_epsilon: 1e-8
seed: 7
precision: f32
threads: 2
eval_steps: 0.05
save_steps: 20
early_stopping:
  method: grades
  tau: {default: 1.5, mlp: 3}
  alpha: 0.25
  patience: 2
  companions: follow
load_in_4bit: false
adapter: null
"#;

#[test]
fn every_option_is_read() {
    let config = parse(FULL, &[]).unwrap();
    assert_eq!(config.datasets[0].split.as_deref(), Some("train[:1000]"));
    assert_eq!(config.datasets[1].field_messages.as_deref(), Some("turns"));
    assert_eq!(config.val_set_size.of(1000), 50);
    assert_eq!((config.learning_rate.number(), config.weight_decay, config.num_epochs), (Some(5e-5), 0.01, 6.0));
    assert_eq!((config.optimizer, config.precision), (Optimizer::AdamW, Precision::F32));
    assert_eq!(config.threads.count().map(|count| count.get()), Some(2));
    assert_eq!((config.max_steps, config.warmup_steps), (Some(120), None));
    assert_eq!(config.schedule(101).warmup_steps, 6);
    assert_eq!(config.packing(), Some(Packing { tokens: 256, pictures: usize::MAX }));
    assert!(config.train_on_inputs);
    assert_eq!(config.eval_steps.unwrap().of(120), 6);
    let save = config.save_steps.clone().unwrap();
    assert!(save.due(20, 120) && save.due(40, 120) && !save.due(30, 120));
    let grades::EarlyStopping::Grades(options) = &config.early_stopping else { panic!("{config:?}") };
    assert_eq!((options.alpha, options.patience, options.companions), (Some(0.25), 2, grades::Companions::Follow));
    let grades::Tau::ByKey(taus) = &options.tau else { panic!("{options:?}") };
    assert_eq!(taus.values().copied().collect::<Vec<_>>(), [1.5, 3.0]);
}

#[test]
fn the_resolved_config_reads_back_to_itself() {
    for (yaml, overrides) in [
        (MINIMAL, vec![]),
        (FULL, vec![]),
        (
            MINIMAL,
            vec![
                "learning_rate=1.2345678901234567e-7",
                "model='on: off # no'",
                "early_stopping=none",
                "val_set_size=17",
            ],
        ),
        (MINIMAL, vec!["learning_rate=auto"]),
        (MINIMAL, vec!["early_stopping.method=validation_loss", "val_set_size=0.1", "datasets.0.split=train[:10%]"]),
        (MINIMAL, vec!["early_stopping.tau=auto", "seed=18446744073709551615", "model='12'", "datasets.0.path='~'"]),
    ] {
        let config = parse(yaml, &overrides).unwrap();
        let written = config.to_yaml().unwrap();
        assert_eq!(parse(&written, &[]).unwrap(), config, "{written}");
        assert_eq!(parse(&written, &[]).unwrap().to_yaml().unwrap(), written);
        assert!(!written.contains("null"), "{written}");
    }
}

#[test]
fn overrides_reach_every_place() {
    let config = parse(
        FULL,
        &[
            "learning_rate=1e-4",
            "datasets.1.path=other.jsonl",
            "datasets.2={path: t, type: text}",
            "early_stopping.patience=5",
            "warmup_ratio=null",
            "warmup_steps=3",
            "lr_scheduler=constant",
            "output_dir=a=b",
        ],
    )
    .unwrap();
    assert_eq!(config.learning_rate, LearningRate::At(1e-4));
    assert_eq!(
        config.datasets.iter().map(|spec| spec.path.as_str()).collect::<Vec<_>>(),
        ["data/piqa", "other.jsonl", "t"]
    );
    assert_eq!((config.warmup_ratio, config.warmup_steps), (None, Some(3)));
    assert_eq!(config.output_dir, PathBuf::from("a=b"));
    assert!(matches!(config.early_stopping, grades::EarlyStopping::Grades(options) if options.patience == 5));

    let config = parse("", &["model=m", "datasets=[{path: p, type: text}]", "early_stopping.tau=2.5"]).unwrap();
    assert!(
        matches!(config.early_stopping, grades::EarlyStopping::Grades(options) if options.tau == grades::Tau::Number(2.5))
    );
}

#[test]
fn another_method_drops_the_options_of_the_one_before() {
    let config = parse(FULL, &["early_stopping.method=none"]).unwrap();
    assert!(matches!(config.early_stopping, grades::EarlyStopping::None(_)));
    let config = parse(FULL, &["early_stopping.method=validation_loss", "early_stopping.patience=4"]).unwrap();
    assert!(matches!(config.early_stopping, grades::EarlyStopping::ValidationLoss(options) if options.patience == 4));
    let config = parse(FULL, &["early_stopping.method=grades"]).unwrap();
    assert!(matches!(config.early_stopping, grades::EarlyStopping::Grades(options) if options.patience == 2));
}

#[test]
fn unknown_options_are_named_with_the_nearest() {
    for (line, key, nearest) in [
        ("learning_rat: 1", "`learning_rat`", "`learning_rate`"),
        ("sequnece_len: 1", "`sequnece_len`", "`sequence_len`"),
        ("base_model: m", "`base_model`", "`model`"),
        ("per_device_train_batch_size: 1", "`per_device_train_batch_size`", "`micro_batch_size`"),
        ("early_stopping: {method: grades, patiense: 3}", "`early_stopping.patiense`", "`patience`"),
        ("early_stopping: {method: validation_loss, tau: 3}", "`early_stopping.tau`", "min_delta"),
        ("early_stopping: {method: none, tau: 3}", "`early_stopping.tau`", "none to set"),
        ("quux: 1", "`quux`", "the options here are model, init, adapter"),
    ] {
        error(&format!("{MINIMAL}{line}\n"), &[], &[key, nearest]);
    }
    error(MINIMAL, &["datasets.0.splt=train"], &["`datasets.0.splt`", "`split`"]);
    error(MINIMAL, &["datasets.0.subset=main"], &["`datasets.0.subset`", "did you mean `name`?"]);
    let axolotl = "tf32: false\nbf16: auto\nflash_attention: true\ngradient_checkpointing_kwargs: {use_reentrant: false}\nstrict:\n";
    error(
        &format!("{MINIMAL}{axolotl}"),
        &[],
        &["`tf32`", "no meaning on a processor", "and `flash_attention`, `gradient_checkpointing_kwargs` as well"],
    );
    error(&format!("{MINIMAL}bf16: auto"), &[], &["`bf16`", "did you mean `precision`?"]);
    error(&format!("{MINIMAL}evals_per_epoch: 4"), &[], &["`evals_per_epoch`", "`eval_steps` says how often"]);
    error(&format!("{MINIMAL}early_stopping_patience: 3"), &[], &["`early_stopping: {method: validation_loss"]);
    error(&format!("{MINIMAL}per_device_eval_batch_size: 3"), &[], &["`micro_batch_size`"]);
}

#[test]
fn values_of_the_wrong_type_are_named() {
    for (line, wanted) in [
        ("learning_rate: fast", ["`learning_rate: \"fast\"`", "a number"]),
        ("max_steps: -1", ["`max_steps: -1`", "a whole number from 0"]),
        ("micro_batch_size: 2.5", ["`micro_batch_size: 2.5`", "a whole number"]),
        ("sample_packing: 3", ["`sample_packing: 3`", "true or false"]),
        ("lr_scheduler: cosin", ["`lr_scheduler: \"cosin\"`", "cosine, linear, constant"]),
        ("lr_scheduler_kwargs: {powr: 2}", ["`lr_scheduler_kwargs.powr`", "did you mean `power`?"]),
        ("optimizer: adam", ["`optimizer: \"adam\"`", "adamw, adamw_torch, adamw_torch_fused, adamw_8bit"]),
        ("optim_args: {adjust_lr_fn: x}", ["`optim_args.adjust_lr_fn: \"x\"`", "original, match_rms_adamw"]),
        ("threads: none", ["`threads: \"none\"`", "auto or a whole number"]),
        ("val_set_size: half", ["`val_set_size: \"half\"`", "a number"]),
        ("early_stopping: {method: magic}", ["early_stopping.method", "grades"]),
        ("early_stopping: {tau: 3, method: magic}", ["early_stopping.method", "grades"]),
        ("early_stopping: magic", ["early_stopping.method", "grades"]),
        ("early_stopping: {tau: [1]}", ["`early_stopping.tau: [1]`", "auto"]),
        ("early_stopping: {patience: many}", ["`early_stopping.patience: \"many\"`", "whole number"]),
        ("early_stopping: 3", ["`early_stopping: 3`", "expected"]),
    ] {
        error(&format!("{MINIMAL}{line}\n"), &[], &wanted);
    }
    error(MINIMAL, &["datasets.0.path=[1]"], &["`datasets.0.path: [1]`", "text"]);
    error(MINIMAL, &["datasets=d.jsonl"], &["`datasets: \"d.jsonl\"`", "a list"]);
    error(MINIMAL, &["datasets={path: d.jsonl}"], &["`datasets: {\"path\":\"d.jsonl\"}`", "a list"]);
    error(MINIMAL, &["early_stopping=[1]"], &["`early_stopping: [1]`"]);
}

#[test]
fn values_out_of_range_are_named_with_the_range() {
    for (line, wanted) in [
        ("sequence_len: 0", ["`sequence_len: 0`", "from 1"]),
        ("max_steps: 0", ["`max_steps: 0`", "from 1"]),
        ("learning_rate: -1e-5", ["`learning_rate: -1e-5`", "from 0"]),
        ("learning_rate: .inf", ["non-finite", "line 4"]),
        ("num_epochs: 0", ["`num_epochs: 0`", "above 0"]),
        ("optim_args: {ns_steps: 3}", ["`optim_args.ns_steps`", "muon"]),
        ("optimizer: muon\noptim_args: {ns_steps: 0}", ["`optim_args.ns_steps: 0`", "from 1"]),
        ("adam_beta2: 1", ["`adam_beta2: 1`", "not including, 1"]),
        ("warmup_ratio: 3", ["`warmup_ratio: 3`", "0 to 1"]),
        ("neftune_noise_alpha: 0", ["`neftune_noise_alpha: 0`", "above 0"]),
        ("neftune_noise_alpha: 5\nprefix_cache: memory", ["`prefix_cache`", "`neftune_noise_alpha`"]),
        ("noisy_embedding_alpha: 5", ["`noisy_embedding_alpha`", "`neftune_noise_alpha`"]),
        ("embedding_lr: -1", ["`embedding_lr: -1`", "from 0"]),
        ("embedding_lr: 1\nembedding_lr_scale: 1", ["`embedding_lr`", "remove one"]),
        ("learning_rate: auto\noptimizer: lion", ["`learning_rate: auto`", "adamw"]),
        (
            "early_stopping: {method: budget, flops: 1.0e9, freeze: true}\noptimizer: sgd",
            ["`early_stopping.freeze: true`", "adamw"],
        ),
        (
            "early_stopping: {method: budget, memory: 1.0e9}\noptimizer: adamw_8bit",
            ["`early_stopping.memory`", "adamw"],
        ),
        ("learning_rate: auto\nembedding_lr: 1", ["`embedding_lr`", "embedding_lr_scale"]),
        ("learning_rate: auto\nvision_learning_rate: 1", ["`vision_learning_rate`", "not known yet"]),
        ("embedding_lr: 1\nlearning_rate: 0", ["`embedding_lr`", "above 0"]),
        ("embedding_lr_scale: 1\nadapter: lora", ["`embedding_lr`", "adapter"]),
        ("vision_learning_rate: -1", ["`vision_learning_rate: -1`", "from 0"]),
        ("projector_learning_rate: 1\nfreeze_multi_modal_projector: true", ["`projector_learning_rate`", "remove one"]),
        ("mm_projector_lr: 1", ["`mm_projector_lr`", "`projector_learning_rate`"]),
        ("vision_learning_rate: 1\nlearning_rate: 0", ["`vision_learning_rate`", "above 0"]),
        (
            "freeze_vision_tower: true\nfreeze_multi_modal_projector: true\nfreeze_language_model: true",
            ["`freeze_language_model`", "nothing to train"],
        ),
        ("lr_scheduler_kwargs: {power: 2}", ["`lr_scheduler_kwargs.power`", "polynomial"]),
        (
            "lr_scheduler: polynomial\nlr_scheduler_kwargs: {lr_end: 1}",
            ["`lr_scheduler_kwargs.lr_end`", "learning_rate"],
        ),
        ("val_set_size: 1.5", ["`val_set_size: 1.5`", "share"]),
        ("val_set_size: -2", ["`val_set_size: -2`", "share"]),
        ("save_steps: 0", ["`save_steps: 0`", "from 1"]),
        ("save_steps: [3, 0]", ["`save_steps: [3,0]`", "from 1"]),
        ("save_steps: often", ["`save_steps: \"often\"`", "list of steps"]),
        ("save_strategy: sometimes", ["`save_strategy: \"sometimes\"`", "steps, epoch, best, no"]),
        ("save_strategy: steps", ["`save_strategy: steps`", "set save_steps"]),
        ("save_strategy: no\nsave_steps: 3", ["`save_steps`", "remove one"]),
        ("save_only_model: true", ["`save_only_model`", "save_strategy"]),
        ("greater_is_better: true", ["`greater_is_better`", "load_best_model_at_end"]),
        ("load_best_model_at_end: true\nval_set_size: 2", ["`load_best_model_at_end`", "set save_steps"]),
        ("save_strategy: epoch\nload_best_model_at_end: true", ["`eval_loss`", "set val_set_size"]),
        ("save_strategy: best\nval_set_size: 2\neval_steps: 0", ["`save_strategy: best`", "`eval_steps: 0`"]),
        (
            "save_steps: 2\nval_set_size: 2\nload_best_model_at_end: true\nearly_stopping: validation_loss",
            ["`early_stopping.method: validation_loss`", "load_best_model_at_end"],
        ),
        (
            "save_steps: 2\nval_set_size: 2\nload_best_model_at_end: true\nweight_average: {kind: ema}",
            ["`load_best_model_at_end`", "`weight_average`"],
        ),
        (
            "save_steps: 2\nval_set_size: 2\nload_best_model_at_end: true\nadapter: lora\nfold_frozen: true",
            ["`load_best_model_at_end`", "`fold_frozen`"],
        ),
        ("save_steps: 2\nmetric_for_best_model: accuracy", ["`metric_for_best_model: \"accuracy\"`", "train_loss"]),
        (
            "auto_resume_from_checkpoints: true\nresume_from_checkpoint: runs/a/checkpoints/step-000001",
            ["`auto_resume_from_checkpoints`", "`resume_from_checkpoint`"],
        ),
        ("auto_resume_from_checkpoints: always", ["`auto_resume_from_checkpoints`", "resume_from_checkpoint"]),
        ("early_stopping: {alpha: 2}", ["early_stopping", "alpha"]),
        ("early_stopping: {method: budget}", ["early_stopping", "flops"]),
        ("early_stopping: none\nsave_both_averages: true", ["save_both_averages", "weight_average"]),
        ("early_stopping: {method: autofreeze, num_intervals: 0}", ["early_stopping", "num_intervals"]),
        ("early_stopping: {method: loraf}", ["`early_stopping.method: loraf`", "adapter: lora"]),
        ("early_stopping: {method: aflora}", ["`early_stopping.method: aflora`", "adapter: lora"]),
        ("adapter: lora\nearly_stopping: {method: loraf, sparsity: 1}", ["`sparsity: 1`", "not including, 1"]),
        ("adapter: lora\nloraplus_lr_ratio: 0", ["`loraplus_lr_ratio: 0`", "above 0"]),
        ("loraplus_lr_ratio: 16", ["`loraplus_lr_ratio`", "adapter: lora"]),
        ("early_stopping: {method: validation_loss}", ["validation_loss", "val_set_size"]),
        (
            "report_to: [tensorboard, comet]",
            ["`report_to", "tensorboard, wandb, mlflow, trackio, a list of them, or none"],
        ),
        ("wandb_project: p", ["`wandb_project`", "`report_to: wandb`"]),
        ("report_to: wandb\nmlflow_experiment_name: e", ["`mlflow_experiment_name`", "`report_to: mlflow`"]),
        ("report_to: tensorboard\nrun_name: first", ["`run_name`", "mlflow or trackio"]),
        ("report_to: mlflow\nmlflow_tracking_uri: \"sqlite:///a.db\"", ["`mlflow_tracking_uri`", "mlflow server"]),
        (
            "report_to: mlflow\nmlflow_tracking_uri: http://u:p@host",
            ["`mlflow_tracking_uri`", "MLFLOW_TRACKING_PASSWORD"],
        ),
        ("report_to: trackio\ntrackio_space_id: o/s", ["`trackio_space_id`", "trackio sync"]),
        ("hub_model_id: tiny", ["`hub_model_id: tiny`", "owner/name"]),
        ("hub_private_repo: true", ["`hub_private_repo`", "`hub_model_id`"]),
        ("hub_model_id: o/n\nhub_strategy: every_save", ["`hub_strategy`", "save_steps"]),
        ("hub_model_id: o/n\nhub_strategy: always", ["`hub_strategy: \"always\"`", "every_save"]),
        ("hub_token: secret", ["`hub_token`", "HF_TOKEN"]),
        ("push_to_hub: true", ["`push_to_hub`", "`hub_model_id`"]),
        ("adapter: qlora", ["`adapter: \"qlora\"`", "lora"]),
        ("adapter: lora\nlora_r: 0", ["`lora_r: 0`", "from 1"]),
        ("adapter: lora\nlora_alpha: 0", ["`lora_alpha: 0`", "above 0"]),
        ("adapter: lora\nlora_dropout: 1", ["`lora_dropout: 1`", "not including, 1"]),
        ("adapter: lora\nlora_dropout: 0.1\nprefix_cache: memory", ["`prefix_cache`", "`lora_dropout`"]),
        ("lora_dropout: 0.1", ["`lora_dropout`", "adapter: lora"]),
        ("fold_frozen: true", ["`fold_frozen`", "adapter: lora"]),
        ("adapter: lora\nuse_dora: true", ["`use_dora`", "`peft_use_dora`"]),
        ("max_images_per_row: 3", ["`max_images_per_row`", "sample_packing: true"]),
        ("adapter: lora\nfreeze_language_model: true", ["language.*", "`freeze_language_model: true`"]),
        (
            "adapter: lora\nfreeze_vision_tower: true\nlora_target_modules: [q_proj, vision.qkv]",
            ["vision.qkv", "`freeze_vision_tower: true`"],
        ),
        ("adapter: lora\nlora_target_modules: [1]", ["`lora_target_modules", "all-linear"]),
        ("lora_r: 8", ["`lora_r`", "adapter: lora"]),
        ("adapter: lora\nlora_rank: 8", ["`lora_rank`", "`lora_r`"]),
        ("adapter: lora\nquantization_bit: 4", ["`quantization_bit`", "`load_in_4bit`"]),
        ("adapter: lora\nload_in_4bit: true\nfold_frozen: true", ["`fold_frozen`", "`load_in_4bit`"]),
        ("adapter: lora\nfold_frozen: true\nearly_stopping: {method: lisa}", ["`fold_frozen`", "lisa"]),
        ("adapter: lora\nfold_frozen: true\nearly_stopping: {unfreeze: true}", ["`fold_frozen`", "grades"]),
        ("load_in_4bit: true", ["`load_in_4bit: true`", "adapter: lora"]),
    ] {
        error(&format!("{MINIMAL}{line}\n"), &[], &wanted);
    }
    error(MINIMAL, &["warmup_ratio=0.1", "warmup_steps=3"], &["`warmup_ratio` and `warmup_steps`"]);
    error(
        MINIMAL,
        &["early_stopping={method: validation_loss, patience: 0}", "val_set_size=3"],
        &["early_stopping", "patience"],
    );
    error("datasets: [{path: a, type: text}]", &[], &["`model` is missing"]);
    error("model: m", &[], &["`datasets` is missing"]);
    error("model: m\ndatasets: [{path: a}]", &[], &["`datasets.0.type` is missing"]);
    error("model: m\ndatasets: [{path: a, type: verse}]", &[], &["`verse`", "alpaca"]);
    error("model: m\ndatasets: [{path: a, type: text, field_prompt: p}]", &[], &["field_prompt", "`text`"]);
}

#[test]
fn broken_yaml_and_overrides_are_named() {
    error("model: [", &[], &["not valid YAML", "line"]);
    error("model: a\nmodel: b", &[], &["not valid YAML", "model"]);
    error("- a", &[], &["key: value"]);
    error(MINIMAL, &["learning_rate"], &["`learning_rate`", "key=value"]);
    error(MINIMAL, &["=3"], &["`=3`", "empty key"]);
    error(MINIMAL, &["datasets..path=3"], &["empty key"]);
    error(MINIMAL, &["datasets.5.path=a"], &["`5`", "up to 1", "`datasets` is a list"]);
    error(MINIMAL, &["datasets.first.path=a"], &["`first`"]);
    error(MINIMAL, &["model.path=a"], &["inside `model`"]);
    error(MINIMAL, &["model=[a"], &["`model=[a`", "not YAML"]);
    let error = Config::load(Path::new("no-such-config.yaml"), &[]).unwrap_err().to_string();
    assert!(error.contains("no-such-config.yaml"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "model: [").unwrap();
    let error = Config::load(file.path(), &[]).unwrap_err().to_string();
    assert!(error.contains(&file.path().display().to_string()) && error.contains("line"), "{error}");
}

#[test]
fn a_model_without_weights_is_only_for_random_values() {
    let yaml = MINIMAL.replace("model: m", "model: {config: c.json, tokenizer: t}\ninit: random");
    let config = Config::parse(&yaml, &[]).unwrap();
    let parts = Model::New { config: "c.json".into(), tokenizer: "t".into() };
    assert_eq!((&config.model, config.init), (&parts, Init::Random));
    assert_eq!(Config::parse(&config.to_yaml().unwrap(), &[]).unwrap(), config);
    let error = |yaml: &str| Config::parse(yaml, &[]).unwrap_err().to_string();
    assert!(error(&yaml.replace("random", "pretrained")).contains("set init: random"));
    let lacking = error(&yaml.replace(", tokenizer: t", ""));
    assert!(lacking.contains("`model:") && lacking.contains("tokenizer: folder"), "{lacking}");
}

#[test]
fn another_method_drops_the_options_of_the_one_in_the_file() {
    let method = |early_stopping: &str, method: &str| {
        let yaml = format!("{MINIMAL}early_stopping: {early_stopping}\nval_set_size: 2\n");
        Config::parse(&yaml, &[format!("early_stopping.method={method}")]).unwrap().early_stopping
    };
    let defaults = grades::EarlyStopping::default();
    assert_eq!(method("none", "grades"), defaults);
    assert_eq!(method("{method: validation_loss, patience: 9}", "grades"), defaults);
    // Options without a method are those of GradES, and stay where it is asked for.
    assert_eq!(method("{tau: 3.0}", "grades"), method("{method: grades, tau: 3.0}", "grades"));
    assert_ne!(method("{tau: 3.0}", "grades"), defaults);
    assert_eq!(method("{tau: 3.0}", "none").name(), "none");
}

#[test]
fn optimizers_have_the_names_and_defaults_that_users_know() {
    let rule = |text: &str| parse(&format!("{MINIMAL}{text}\n"), &[]).unwrap().rule();
    let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    assert_eq!((rule(""), rule("optimizer: adamw_torch")), (Rule::AdamW(adam), Rule::AdamW(adam)));
    for name in ["adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"] {
        assert_eq!(rule(&format!("optimizer: {name}")), Rule::AdamW8bit(adam));
    }
    for name in ["lion", "lion_32bit", "lion_pytorch"] {
        assert_eq!(rule(&format!("optimizer: {name}")), Rule::Lion { beta1: 0.9, beta2: 0.99 });
    }
    assert_eq!(rule("optimizer: lion\nadam_beta2: 0.95"), Rule::Lion { beta1: 0.9, beta2: 0.95 });
    let adjust_lr_fn = AdjustLrFn::MatchRmsAdamW;
    let muon = Rule::Muon { momentum: 0.95, nesterov: true, ns_steps: 5, adjust_lr_fn, adam };
    assert_eq!(rule("optimizer: muon"), muon);
    let other = "optimizer: muon\nmomentum: 0.9\noptim_args: {nesterov: false, ns_steps: 6, adjust_lr_fn: original}";
    let adjust_lr_fn = AdjustLrFn::Original;
    assert_eq!(rule(other), Rule::Muon { momentum: 0.9, nesterov: false, ns_steps: 6, adjust_lr_fn, adam });
    assert_eq!(rule("optimizer: sgd"), Rule::Sgd { momentum: 0.0 });
}

#[test]
fn adapters_have_the_names_of_axolotl() {
    let lora = |text: &str| parse(&format!("{MINIMAL}{text}\n"), &[]).unwrap().lora();
    assert_eq!(lora(""), None);
    let all = lora("adapter: lora").unwrap();
    assert_eq!(
        (all.r, all.lora_alpha, all.use_rslora, all.target_modules.as_slice()),
        (16, 32.0, false, &["language.*".to_owned()][..])
    );
    let linear = lora("adapter: lora\nlora_target_linear: true").unwrap();
    assert_eq!(linear, LoraConfig { target_modules: vec!["all-linear".to_owned()], ..all });
    let some =
        lora("adapter: lora\nlora_r: 4\nlora_alpha: 8\npeft_use_rslora: true\nlora_target_modules: [q_proj, v_proj]")
            .unwrap();
    assert_eq!((some.r, some.lora_alpha, some.use_rslora), (4, 8.0, true));
    assert_eq!(some.target_modules, ["q_proj", "v_proj"]);
}

#[test]
fn checkpoints_are_asked_for_as_in_transformers_and_axolotl() {
    let read = |text: &str| parse(&format!("{MINIMAL}val_set_size: 2\n{text}\n"), &[]).unwrap();
    let saves = |text: &str| read(text).saves(5);
    assert_eq!(
        (saves(""), saves("save_strategy: no"), saves("save_strategy: \"no\"")),
        (Saves::Never, Saves::Never, Saves::Never)
    );
    assert_eq!((saves("save_strategy: epoch"), saves("save_strategy: best")), (Saves::Epochs(5), Saves::Best));
    assert_eq!(saves("save_strategy: steps\nsave_steps: 3"), saves("save_steps: 3"));
    let best = |text: &str| read(text).best_model();
    assert_eq!((best("save_steps: 3"), best("save_strategy: epoch")), (None, None));
    let by_loss = BestModel { metric: BestMetric::EvalLoss, greater_is_better: false, load_at_end: false };
    assert_eq!(best("save_strategy: best"), Some(by_loss));
    for name in ["loss", "eval_loss"] {
        assert_eq!(best(&format!("save_steps: 3\nmetric_for_best_model: {name}")), Some(by_loss));
    }
    let loaded = read("save_steps: 3\nload_best_model_at_end: true\nearly_stopping: {tau: auto}");
    assert_eq!(loaded.best_model(), Some(BestModel { load_at_end: true, ..by_loss }));
    // A run ends with one or the other.
    assert_eq!((loaded.weight_average(), read("early_stopping: {tau: auto}").weight_average().is_some()), (None, true));
    for text in
        ["auto_resume_from_checkpoints: true", "auto_resume_from_checkpoints: true\nresume_from_checkpoint: auto"]
    {
        assert_eq!(read(text).resume_from_checkpoint, Some(Resume::Auto));
    }
    assert_eq!(read("auto_resume_from_checkpoints: false").resume_from_checkpoint, None);
    let again = read("save_strategy: best\nsave_only_model: true");
    assert_eq!(parse(&again.to_yaml().unwrap(), &[]).unwrap(), again);
}

#[test]
fn chat_templates_and_learnt_turns_have_the_names_of_axolotl() {
    let messages = MINIMAL.replace("completion", "messages");
    let config = parse(&messages, &["roles_to_train=[user]", "train_on_eos=all", "chat_template=chatml"]).unwrap();
    let set = &config.datasets[0];
    assert_eq!(
        (set.roles_to_train.as_deref(), set.train_on_eos),
        (Some(&["user".to_owned()][..]), Some(TrainOnEos::All))
    );
    assert_eq!(Config::parse(&config.to_yaml().unwrap(), &[]).unwrap(), config);
    // What a set says itself counts.
    let own = parse(&messages, &["roles_to_train=[user]", "datasets.0.roles_to_train=[]"]).unwrap();
    assert_eq!(own.datasets[0].roles_to_train.as_deref(), Some(&[][..]));

    for (overrides, wanted) in [
        (&["chat_template=other"][..], &["`chat_template: other`", "chatml", "jinja"][..]),
        (&["chat_template=jinja"], &["chat_template_jinja"]),
        (&["chat_template=chatml", "chat_template_jinja='{{ x }}'"], &["not used"]),
        (&["train_on_inputs=true", "train_on_eos=last"], &["`train_on_eos`", "train_on_inputs"]),
        (&["train_on_inputs=true", "train_on_last_turn_only=true"], &["`train_on_last_turn_only`"]),
        (&["train_on_eos=never"], &["train_on_eos", "turn"]),
    ] {
        error(&messages, overrides, wanted);
    }
    error(MINIMAL, &["roles_to_train=[user]"], &["`roles_to_train`", "messages"]);
}

#[test]
fn a_chat_template_is_the_models_or_one_by_name_text_or_file() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/texts/bytes");
    let of = |overrides: &[&str]| {
        let tokenizer = grades_models::tokenizer::Tokenizer::from_checkpoint(&fixture).unwrap();
        let own = tokenizer.chat_template().unwrap().to_owned();
        let config = parse(&MINIMAL.replace("completion", "messages"), overrides).unwrap();
        config.with_chat_template(tokenizer).map(|tokenizer| {
            let found = tokenizer.chat_template().unwrap();
            if found == own { "own".to_owned() } else { found.to_owned() }
        })
    };
    assert_eq!(of(&[]).unwrap(), "own");
    assert_eq!(of(&["chat_template=tokenizer_default"]).unwrap(), "own");
    assert_eq!(of(&["chat_template=tokenizer_default_fallback_chatml"]).unwrap(), "own");
    assert!(of(&["chat_template=chatml"]).unwrap().contains("<|im_start|>"));
    assert_eq!(of(&["chat_template_jinja='{{ messages }}'"]).unwrap(), "{{ messages }}");
    let file = folder.path().join("t.jinja");
    fs::write(&file, "{{ bos_token }}").unwrap();
    let given = format!("chat_template_jinja={}", file.display());
    assert_eq!(of(&["chat_template=jinja", &given]).unwrap(), "{{ bos_token }}");
    assert!(of(&["chat_template_jinja=nowhere.jinja"]).unwrap_err().contains("nowhere.jinja"));
}
