//! Runs of a model of random values under a policy that a test has made.

use std::fs;

use grades::Policy;
use grades_models::random::Random;
use grades_models::source::LoadOptions;
use grades_models::{Decoder, LoraConfig, registry};
use grades_tensor::device;
use grades_train::bench::Shape;
use grades_train::config::{OnNonfinite, Saves};
use grades_train::data::{Batch, Loader, LoaderOptions, Tokenized};
use grades_train::schedule::{LrScheduler, LrSchedulerOptions, Schedule};
use grades_train::train::outputs;
use grades_train::train::rule::{Adam, Rule};
use grades_train::train::vision_cache::VisionCache;
use grades_train::train::{Reader, RunDir, TrainError, TrainOptions, TrainState, Trainer, Validation};
use serde_json::Value;

/// The constant learning rate.
pub(crate) const RATE: f64 = 1e-3;

fn sample(row: u32) -> Tokenized {
    let ids: Vec<u32> = (0..9).map(|i| (i * i + 37 * row) % 256).collect();
    Tokenized { labels: ids.iter().map(|&id| id.into()).collect(), ids, ..Tokenized::default() }
}

/// So many steps of 4 samples in 2 micro-batches, of all parameters or of adapters, which are then folded when they freeze:
/// the model at the end and the steps' metrics.
pub(crate) fn train(
    policy: Box<dyn Policy>,
    steps: usize,
    adapter: Option<LoraConfig>,
) -> Result<(Decoder, Vec<Value>), TrainError> {
    let folder = tempfile::tempdir().unwrap();
    let fold_frozen = adapter.is_some();
    let load = LoadOptions::new(device("cpu").unwrap());
    let mut model = registry::load(&Shape::Tiny.config(), &Random::new(1), load).unwrap();
    if let Some(adapter) = adapter {
        model = model.with_adapter(adapter, &LoraConfig::initial(1)).unwrap();
    }
    let order =
        LoaderOptions { micro_batch_size: 2, gradient_accumulation_steps: 2, packing: None, shuffle: true, seed: 1 };
    let loader = Loader::new((0..8).map(sample), order);
    let mut batch = Batch::default();
    (8..10).for_each(|row| batch.push(row as usize, &sample(row)));
    let validation = Validation::from(vec![batch]);
    let scheduler = LrScheduler::Constant;
    let options = TrainOptions {
        schedule: Schedule {
            scheduler,
            options: LrSchedulerOptions::default(),
            learning_rate: RATE,
            warmup_steps: 0,
            total_steps: steps,
        },
        rule: Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-12 }),
        weight_decay: 0.0,
        loraplus_lr_ratio: 1.0,
        embedding_lr_ratio: 1.0,
        picture_lr_ratios: [1.0; 2],
        seed: 0,
        neftune_noise_alpha: None,
        fold_frozen,
        max_grad_norm: None,
        gradient_checkpointing: false,
        weight_average: None,
        prefix_cache: outputs::Options::default(),
        eval_steps: None,
        saves: Saves::Never,
        save_only_model: false,
        best_model: None,
        trace: false,
        save_total_limit: None,
        on_nonfinite: OnNonfinite::Stop,
        logging_steps: 1,
    };
    let state = TrainState::new(model, policy, &options);
    let reader = Reader::new(None, VisionCache::off());
    let mut dir = RunDir::create(&folder.path().join("run")).unwrap();
    let model = Trainer::new(state, (loader, reader), &validation, options, &mut dir).train()?.model;
    let metrics = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    Ok((model, metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
}
