//! The second stage: every option of a run, declared once, with its default and its range.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::averaging::Averaging;
use super::hub::HubStrategy;
use super::interruptions::{OnNonfinite, Resume};
use super::learning_rate::LearningRate;
use super::lora::{Adapter, TargetModules};
use super::machine::{Precision, Threads};
use super::model::{Init, Model};
use super::optimizer::{OptimArgs, Optimizer};
use super::pictures::ImageBackend;
use super::preference::{DpoLossType, Rl};
use super::report_to::ReportTo;
use super::save_steps::SaveSteps;
use super::save_strategy::{BestMetric, SaveStrategy};
use super::size::ByteSize;
use super::sources::Shares;
use crate::data::split::CountOrShare;
use crate::data::{DatasetSpec, ExcessLength, MixStrategy, OnBadRow, TrainOnEos};
use crate::schedule::{LrScheduler, LrSchedulerOptions};
use crate::train::outputs;

/// All options of a run. Names and, where the tools agree, defaults are those of Axolotl and TRL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The model: a folder in the Hugging Face layout, a GGUF file, a model of the Hub (`owner/name`, or of its GGUF files one:
    /// `owner/name:Q4_K_M`), or with `init: random` also
    /// `{config: config.json, tokenizer: folder}`. Of a model that reads pictures in GGUF files `{path: model.gguf, mmproj: mmproj.gguf}`, or the
    /// folder that holds the two. Required.
    pub model: Model,
    /// The values that it begins with: `pretrained` (default), or `random` to train from scratch.
    pub init: Init,
    /// `lora` trains low-rank adapters and leaves the model as it is. Left out: the model itself trains.
    pub adapter: Option<Adapter>,
    /// Rank of the adapters. Default: 16.
    pub lora_r: usize,
    /// α: the adapters count `α / r` times. Default: 32.
    pub lora_alpha: f64,
    /// Dropout rate of the adapters' inputs. Adapters that share an input (q, k and v; gate and up) share its mask. Default: 0.
    pub lora_dropout: f64,
    /// The layers that have an adapter: ends of their names (`q_proj`), patterns of their whole names with `*` and `?`, or
    /// `all-linear`. Behind `language.`, `vision.` or `projector.` they are those of that part of the model (`vision.*`,
    /// `language.q_proj`). Default: `language.*`, every linear layer of the language model; what reads pictures stays as it is then, as in
    /// LLaMA-Factory, where `freeze_vision_tower` is on with adapters. A name without a part means the layers of all parts that end so, and
    /// `all-linear` every linear layer, as in PEFT.
    pub lora_target_modules: TargetModules,
    /// Whether the adapters count `α / √r` times. Default: false.
    pub peft_use_rslora: bool,
    /// Whether the adapters are weight-decomposed (DoRA): each row of the adapted weight has a length of its own that is
    /// trained. Default: false.
    pub peft_use_dora: bool,
    /// Whether a frozen adapter is added to its weight, so that its products vanish from the step. It is saved as before.
    /// In bf16 the sum is then rounded as every weight is, and small adapters lose by it. Default: false.
    pub fold_frozen: bool,
    /// Whether the base of the adapters stays in 4 bits in memory: one that is quantised already (a GGUF file, or nf4 of
    /// bitsandbytes) in its own blocks, any other in NF4 with double quantisation. Embedding and head stay in the blocks or the
    /// bf16 of their file. Default: false.
    pub load_in_4bit: bool,
    /// LoRA+: what the learning rate of every B is multiplied by. Left out: 1.
    pub loraplus_lr_ratio: Option<f64>,
    /// The run's directory, made by the run; one that exists is never overwritten. Default: `model-out`.
    pub output_dir: PathBuf,
    /// The training data. At least one is required.
    pub datasets: Vec<DatasetSpec>,
    /// Samples kept back for validation: a count (from 1) or a share (below 1). Default: 0, none.
    pub val_set_size: CountOrShare,
    /// Data sets to validate on, in place of `val_set_size`: entries as of `datasets`, whose split is `test` where none is named. With
    /// several, the loss on each is logged beside that on all.
    pub test_datasets: Vec<DatasetSpec>,
    /// How several data sets become one: `concat` (default), or sample by sample `interleave_under`, until the first has no more, or
    /// `interleave_over`, until each was gone through once (those that end before begin again). Also called `under` and `over`.
    pub mix_strategy: MixStrategy,
    /// With `interleave_…` the share of each data set, in their order; they add up to 1. Left out: each in turn.
    pub interleave_probs: Option<Shares>,
    /// Whether each epoch goes through the samples in an order of its own. Default: true; else it is that of the data sets and files, or
    /// of their mix.
    pub shuffle_merged_datasets: bool,
    /// Whether a training sample that equals an earlier one, token by token, is left out. Default: false; they are counted all the same.
    pub dataset_exact_deduplication: bool,
    /// Of each data set only the first rows, so many.
    pub max_samples: Option<usize>,
    /// A folder in which the encoded samples are kept, so that they are encoded once: found again by all that makes a token differ (the
    /// contents of the files, the tokenizer, the chat template, the options). `grades preprocess` fills it. A run has in memory where each
    /// sample lies, and reads it when it needs it; what is validated on is in memory whole. Left out: none, and all samples are in memory.
    pub dataset_prepared_path: Option<PathBuf>,
    /// Whether rows are read, encoded and packed while training goes on, so that data need not fit into memory. Needs `max_steps`;
    /// the data are gone through as often as these take. Default: false.
    pub streaming: bool,
    /// Benchmarks (as of `grades eval --tasks`) whose questions are looked for in the training data, as sequences of 13 words (of shorter
    /// questions all of their words, from 8 on); what is found is a warning, and nothing is left out. Left out: none.
    pub contamination: Vec<String>,
    /// With `streaming` the samples among which the next one is drawn. Left out: 2048.
    pub shuffle_buffer_size: Option<usize>,
    /// With `streaming` and `sample_packing` the samples that are packed into rows together. Left out: 1024.
    pub streaming_multipack_buffer_size: Option<usize>,

    /// Largest number of tokens of a sample, and of a packed row. Default: 2048.
    pub sequence_len: usize,
    /// What happens to longer samples: `raise` (default), `drop` or `truncate`.
    pub excess_length_strategy: ExcessLength,
    /// What happens at a row that cannot be used (it is no JSON, lacks a column, or the chat template refuses it): `stop` (default), or `skip`,
    /// which leaves it out, names the first few, and counts them.
    pub on_bad_row: OnBadRow,
    /// Whether a row is filled with samples up to `sequence_len` tokens, instead of being one sample. The samples of a row
    /// do not see each other. Default: false.
    pub sample_packing: bool,
    /// With `sample_packing` the most pictures of a row, of those in tiles the tiles; one sample may have more by itself. Left out: as many as
    /// fit its tokens.
    pub max_images_per_row: Option<usize>,
    /// Whose resize and roundings pictures go through: `auto` (default: what the model's processor says, which is torchvision's unless it
    /// names Pillow), `pillow` or `torchvision`. They differ by a level or two of 255.
    pub image_backend: ImageBackend,
    /// Whether prompts count in the loss as well. Default: false.
    pub train_on_inputs: bool,
    /// Roles whose turns in conversations are learnt, and with `[]` only those marked by `train: true`. Left out: `[assistant]`.
    pub roles_to_train: Option<Vec<String>>,
    /// Of which turns in conversations the token that ends them is learnt: `turn` (default: of those that are learnt), `last` (of the
    /// last of them), `all` (whoever speaks) or `none`.
    pub train_on_eos: Option<TrainOnEos>,
    /// Whether of each conversation only the last of the turns that would be learnt is. Default: false. A chat template that writes
    /// earlier turns otherwise than the last one (without its thoughts, as Qwen3's) makes of a conversation one sample for each learnt
    /// turn, as that was written while it was the last; with this it is one.
    pub train_on_last_turn_only: bool,
    /// The chat template of conversations: `tokenizer_default` (default: the model's), `tokenizer_default_fallback_chatml`, `chatml`,
    /// `llama3`, `gemma`, `phi_3`, or `jinja` for that of `chat_template_jinja`. It is saved with the model.
    pub chat_template: Option<String>,
    /// A chat template: its text, or its file.
    pub chat_template_jinja: Option<String>,
    /// Variables of the chat template, such as `{enable_thinking: false}`; those of a row's `chat_template_kwargs` come before. They are
    /// not saved with the model.
    pub chat_template_kwargs: Map<String, Value>,

    /// Learns from preferences (data sets of type `preference`, with `kto` also `unpaired_preference`) by `dpo`, `ipo`, `orpo`,
    /// `simpo` or `kto`, as TRL does. Left out: every token of the answers is learnt.
    pub rl: Option<Rl>,
    /// `rl`: β (of `orpo` λ), by which log-probabilities or their means count; TRL's `beta`. Default: 0.1.
    #[serde(alias = "beta")]
    pub rl_beta: Option<f64>,
    /// `dpo`: `sigmoid` (default), `hinge`, `ipo` or `robust`.
    pub dpo_loss_type: Option<DpoLossType>,
    /// `dpo_loss_type: robust`: the share of rows that prefer the wrong answer. TRL: `label_smoothing`. Default: 0.
    #[serde(alias = "label_smoothing")]
    pub dpo_label_smoothing: Option<f64>,
    /// `dpo`: what the cross-entropy of the chosen answers counts beside the loss. Default: 0.
    pub rpo_alpha: Option<f64>,
    /// `simpo`: the margin that is wanted. Default: 0.5.
    pub simpo_gamma: Option<f64>,
    /// `simpo`: what the cross-entropy of the chosen answers counts beside the loss; 0 (with `rl_beta: 2`) is the paper's. Default: 1.
    pub cpo_alpha: Option<f64>,
    /// `kto`: what a good answer counts. Default: 1.
    #[serde(alias = "desirable_weight")]
    pub kto_desirable_weight: Option<f64>,
    /// `kto`: what a bad answer counts. Default: 1.
    #[serde(alias = "undesirable_weight")]
    pub kto_undesirable_weight: Option<f64>,

    /// Rows of a micro-batch. Default: 8.
    pub micro_batch_size: usize,
    /// Micro-batches of a step. Default: 1.
    pub gradient_accumulation_steps: usize,
    /// Times that the data are gone through, which may be a fraction. Default: 1.
    pub num_epochs: f64,
    /// Steps of the run, in place of `num_epochs`.
    pub max_steps: Option<usize>,

    /// The learning rate at the end of the warm-up: a number, or `auto`, the one at which the first updates gain most, which is found
    /// before the first step (with AdamW). Default: 2e-5.
    pub learning_rate: LearningRate,
    /// The learning rate of the embedding, and of a head that is not tied to it, in place of `learning_rate`; the schedule is the same.
    pub embedding_lr: Option<f64>,
    /// The same as a factor of `learning_rate`.
    pub embedding_lr_scale: Option<f64>,
    /// The learning rate of a vision tower, in place of `learning_rate`; the schedule is the same.
    pub vision_learning_rate: Option<f64>,
    /// The learning rate of what makes rows of the language model of a vision tower's output, in place of `learning_rate`; the
    /// schedule is the same.
    pub projector_learning_rate: Option<f64>,
    /// Whether the vision tower stays as it is: nothing of it trains, or gets an adapter. Default: false.
    pub freeze_vision_tower: bool,
    /// The same of what makes rows of the language model of its output. Default: false.
    pub freeze_multi_modal_projector: bool,
    /// The same of the language model. Default: false.
    pub freeze_language_model: bool,
    /// What it does then, as in transformers: `cosine` (default), `linear`, `constant` (`constant_with_warmup` is the same),
    /// `warmup_stable_decay`, `cosine_with_min_lr`, `polynomial` or `inverse_sqrt`.
    pub lr_scheduler: LrScheduler,
    /// The options of `lr_scheduler`, each with its own default.
    pub lr_scheduler_kwargs: LrSchedulerOptions,
    /// Share of the steps over which it rises from 0, rounded up. Default: 0.
    pub warmup_ratio: Option<f64>,
    /// Steps over which it rises from 0, in place of `warmup_ratio`.
    pub warmup_steps: Option<usize>,
    /// `adamw` (default; `adamw_torch` is the same), `adamw_8bit` (also `adamw_bnb_8bit`: moments in blocks of 256 8-bit codes,
    /// a quarter of the memory, but for tensors below 4,096 elements; as bitsandbytes), `lion` (half of the memory; it wants a third to
    /// a tenth of AdamW's rate), `muon` (for the matrices of layers, with f32 products; AdamW for the rest) or `sgd`.
    pub optimizer: Optimizer,
    /// The options of `optimizer` that others do not have.
    pub optim_args: OptimArgs,
    /// Weight decay of matrices and embeddings: added to the gradient with SGD, else decoupled. Vectors (norms and biases)
    /// do not decay, as in transformers. Default: 0.
    pub weight_decay: f64,
    /// AdamW: decay of the mean gradient. Lion: weight of the momentum in a step. Default: 0.9.
    pub adam_beta1: f64,
    /// AdamW: decay of the mean square. Lion: of the momentum. Left out: 0.999, with `lion` 0.99.
    pub adam_beta2: Option<f64>,
    /// AdamW: added to the root of the mean square. Default: 1e-8.
    pub adam_epsilon: f64,
    /// SGD and Muon: momentum. Left out: 0, with `muon` 0.95.
    pub momentum: Option<f64>,
    /// Gradients with a larger norm over all parameters are scaled down to it; 0 turns that off. Default: 1.
    pub max_grad_norm: f64,

    /// NEFTune (Jain et al. 2023): α of the noise on the input embeddings while training, uniform in ±α / √(tokens of the sample ·
    /// hidden size) and drawn anew at every step. 5 to 15 is usual. Left out: none.
    pub neftune_noise_alpha: Option<f64>,

    /// Seed of everything random: the validation set, the order of the samples, what methods, dropout and noise draw.
    /// Default: 42.
    pub seed: u64,
    /// What computes: `auto` (default: `cpu`), `cpu`, or `reference`, plain loops that others are checked against, a thousand
    /// times slower.
    pub device: String,
    /// The dtype of the matrix products and of the activations: `auto` (default: bf16 where the processor multiplies such
    /// numbers itself, else f32), `f32` or `bf16`. Weights that train, gradients, optimizer state and sums are f32 always; matrices
    /// that do not train, as under adapters, are held in bf16 where their file has them so, which changes no result.
    pub precision: Precision,
    /// Whether each layer is computed again in the backward pass instead of keeping its activations: less memory, more
    /// time, the same result. Default: false.
    pub gradient_checkpointing: bool,
    /// The average of the weights that a run ends with, unless its loss on batches not yet seen is higher by more than chance:
    /// `{kind: polynomial, power: 3}` (Shamir & Zhang 2013), `{kind: ema, updates: 20}`, `none`, or `auto` (default: the
    /// polynomial one with `tau: auto`, else none). It takes the memory of what trains once more. A matrix that freezes takes
    /// its average.
    pub weight_average: Averaging,
    /// Whether the one that was not taken, the weights or their average, is saved as well: as `model-weights/` or
    /// `model-average/`, with adapters `adapter-weights/` or `adapter-average/`. Default: false.
    pub save_both_averages: bool,
    /// Where the outputs of frozen first layers are kept by sample, so that later epochs start above them: `off`
    /// (default), `memory` or `disk`. Needs `companions: follow`. A tied embedding parts when layer 0 is frozen, as its
    /// training as head would change the outputs: as input it stays what it is then, a copy trains on as head, and the
    /// model is saved with both (`tie_word_embeddings: false`). Else results are the same within rounding, also after a
    /// checkpoint, which holds none of the outputs.
    pub prefix_cache: outputs::Place,
    /// Most bytes that they take, such as `512MiB`. Default: 2GB.
    pub prefix_cache_size: ByteSize,
    /// Their dtype: `f32` (default), or `bf16` for twice as many of them, rounded.
    pub prefix_cache_dtype: outputs::Dtype,
    /// Where the outputs of a vision tower's frozen first layers are kept by picture, so that each is computed once, however many
    /// questions, epochs and validations it comes in: `off`, `memory` (default) or `disk`. Layers are frozen by choice, under
    /// adapters that are not on them, or by `early_stopping` with `companions: follow`. Results are the same within rounding. On disk
    /// they are found again by a run that goes on from a checkpoint, as far as the tower is still the same.
    pub vision_cache: outputs::Place,
    /// Most bytes that they take; what comes after is computed each time. Default: 2GB.
    pub vision_cache_size: ByteSize,
    /// Their dtype: `f32` (default), or `bf16` for twice as many of them, rounded.
    pub vision_cache_dtype: outputs::Dtype,
    /// With `vision_cache: disk` the folder of their file, which stays there for other runs of the same tower. Left out: the run's
    /// directory, which the file leaves when the run ends.
    pub vision_cache_dir: Option<PathBuf>,
    /// Threads: a number, or `auto` (default) for one per physical core that the process may run on, within its control
    /// group's quota.
    pub threads: Threads,

    /// Steps between lines in the log; metrics are recorded at every step all the same. Default: 10.
    pub logging_steps: usize,
    /// Steps between validations: a count, or a share of all steps; 0 for none before the end. Left out: at the end of
    /// every epoch.
    pub eval_steps: Option<CountOrShare>,
    /// So many prompts of the validation data, spread over all of it, are answered by the model with its likeliest tokens after the steps that
    /// `eval_steps` says, and at the end: `generated.jsonl`, and the report. A prompt is what comes before the first token that is learnt; of a
    /// sample that is learnt from its beginning on the first half. It costs no time or arithmetic of the training (`evaluation_seconds`,
    /// `evaluation_flops`), and changes nothing in it. Default: 0, none.
    pub generate_samples: usize,
    /// `generate_samples`: most tokens of an answer. Left out: 64.
    pub generation_max_new_tokens: Option<usize>,
    /// Benchmarks, or files of questions (as of `grades eval --tasks`), that the model is scored on after the steps that `eval_steps` says, and
    /// at the end; counted as `generate_samples`. Left out: none.
    pub eval_tasks: Vec<String>,
    /// `eval_tasks`: only the first so many questions of each. Left out: all.
    pub eval_tasks_limit: Option<usize>,
    /// When checkpoints are written: `steps` (as `save_steps` says; where that is given the default), `epoch`, `best` (after each
    /// validation that is better than all before), or `no` (else the default): none but the final model.
    pub save_strategy: Option<SaveStrategy>,
    /// Steps between checkpoints: a count, or a share of all steps; or a list of steps.
    pub save_steps: Option<SaveSteps>,
    /// Trackers that a run is told to, too: `tensorboard` (event files in the run's directory), `wandb` (there a directory that `wandb sync`
    /// sends), `mlflow`, `trackio` (files that `trackio show` takes), a list, or `none` (default). What a tracker cannot be sent waits, and stops
    /// nothing.
    pub report_to: ReportTo,
    /// What trackers show the run as. Left out: the last part of `output_dir`.
    pub run_name: Option<String>,
    /// The project in W&B. Left out: `WANDB_PROJECT`, or else `grades`.
    pub wandb_project: Option<String>,
    /// Whose project it is in W&B. Left out: of who sends it.
    pub wandb_entity: Option<String>,
    /// What W&B shows the run as, in place of `run_name`.
    pub wandb_name: Option<String>,
    /// MLflow's tracking server (`http://…`), or the folder that it keeps runs in. Left out: `MLFLOW_TRACKING_URI`, or else `mlruns`. Who may
    /// write there is in `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`.
    pub mlflow_tracking_uri: Option<String>,
    /// The experiment in MLflow. Left out: `MLFLOW_EXPERIMENT_NAME`, or else `Default`.
    pub mlflow_experiment_name: Option<String>,
    /// The project in Trackio. Left out: `TRACKIO_PROJECT`, or else `grades`.
    pub trackio_project_name: Option<String>,
    /// The model's name on the Hugging Face Hub (`owner/name`), where it is uploaded when the run has ended. The token is in `HF_TOKEN`, or where
    /// `hf auth login` has left it.
    pub hub_model_id: Option<String>,
    /// When it is uploaded, as in transformers: `end` (default), `every_save` (the model also with each checkpoint, while training goes on;
    /// one that waits gives way to the next), `checkpoint` (the same, and the last checkpoint, as `last-checkpoint/`), or `all_checkpoints` (the
    /// same, and all of them, as `checkpoints/step-…/`). What cannot be sent meanwhile is told, and stops nothing.
    pub hub_strategy: Option<HubStrategy>,
    /// Whether the repository, if it is made for it, is private. Default: false.
    pub hub_private_repo: bool,
    /// The branch that it goes to. Left out: `main`.
    pub hub_revision: Option<String>,
    /// How many checkpoints stay; the oldest go first, but never the best nor the last. Left out: all.
    pub save_total_limit: Option<usize>,
    /// Whether a checkpoint is a model (or adapter) in the Hugging Face layout alone, for use and not to go on from; that of a run
    /// which a signal ends is whole all the same. Default: false.
    pub save_only_model: bool,
    /// Whether the run ends with the best of its checkpoints, unless its last weights are better. Each checkpoint is validated for
    /// it, whatever `eval_steps` says. `weight_average: auto` is `none` then; `method: validation_loss`, which restores the best of its
    /// own checks by itself, is refused. Default: false.
    pub load_best_model_at_end: bool,
    /// What says which checkpoint is the best: `eval_loss` (also `loss`; with `load_best_model_at_end` and `save_strategy: best` the
    /// default), or `train_loss`, the mean of the steps since the last checkpoint (with `best` since the last validation).
    pub metric_for_best_model: Option<BestMetric>,
    /// Whether more of it is better. Left out: false, as it is a loss.
    pub greater_is_better: Option<bool>,
    /// A checkpoint to go on from; or `auto` (also `true`, or `auto_resume_from_checkpoints: true`) for the last whole one in
    /// `output_dir`, where a run that has not begun begins and one that has ended is left as it is. A damaged one is passed over.
    pub resume_from_checkpoint: Option<Resume>,
    /// What happens at a step whose loss or gradients are NaN or infinite: `stop` (default), or `skip`, which changes nothing at
    /// that step and counts it.
    pub on_nonfinite: OnNonfinite,

    /// What ends or thins out the training early: `{method: grades, …}` with the options of [`grades::Config`] (default,
    /// with its defaults), `{method: validation_loss, …}`, or `none`.
    #[schemars(schema_with = "super::schema::early_stopping")]
    pub early_stopping: grades::EarlyStopping,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: Model::default(),
            init: Init::Pretrained,
            adapter: None,
            lora_r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            lora_target_modules: TargetModules::default(),
            peft_use_rslora: false,
            peft_use_dora: false,
            fold_frozen: false,
            load_in_4bit: false,
            loraplus_lr_ratio: None,
            output_dir: PathBuf::from("model-out"),
            datasets: Vec::new(),
            val_set_size: CountOrShare::default(),
            test_datasets: Vec::new(),
            mix_strategy: MixStrategy::Concat,
            interleave_probs: None,
            shuffle_merged_datasets: true,
            dataset_exact_deduplication: false,
            max_samples: None,
            dataset_prepared_path: None,
            streaming: false,
            contamination: Vec::new(),
            shuffle_buffer_size: None,
            streaming_multipack_buffer_size: None,
            sequence_len: 2048,
            excess_length_strategy: ExcessLength::Raise,
            on_bad_row: OnBadRow::Stop,
            sample_packing: false,
            max_images_per_row: None,
            image_backend: ImageBackend::Auto,
            train_on_inputs: false,
            rl: None,
            rl_beta: None,
            dpo_loss_type: None,
            dpo_label_smoothing: None,
            rpo_alpha: None,
            simpo_gamma: None,
            cpo_alpha: None,
            kto_desirable_weight: None,
            kto_undesirable_weight: None,
            roles_to_train: None,
            train_on_eos: None,
            train_on_last_turn_only: false,
            chat_template: None,
            chat_template_jinja: None,
            chat_template_kwargs: Map::new(),
            micro_batch_size: 8,
            gradient_accumulation_steps: 1,
            num_epochs: 1.0,
            max_steps: None,
            learning_rate: LearningRate::At(2e-5),
            embedding_lr: None,
            embedding_lr_scale: None,
            vision_learning_rate: None,
            projector_learning_rate: None,
            freeze_vision_tower: false,
            freeze_multi_modal_projector: false,
            freeze_language_model: false,
            lr_scheduler: LrScheduler::Cosine,
            lr_scheduler_kwargs: LrSchedulerOptions::default(),
            warmup_ratio: None,
            warmup_steps: None,
            optimizer: Optimizer::AdamW,
            optim_args: OptimArgs::default(),
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: None,
            adam_epsilon: 1e-8,
            momentum: None,
            max_grad_norm: 1.0,
            neftune_noise_alpha: None,
            seed: 42,
            device: "auto".into(),
            precision: Precision::Auto,
            gradient_checkpointing: false,
            weight_average: Averaging::Auto,
            save_both_averages: false,
            vision_cache: outputs::Place::Memory,
            vision_cache_size: ByteSize(2_000_000_000),
            vision_cache_dtype: outputs::Dtype::F32,
            vision_cache_dir: None,
            prefix_cache: outputs::Place::Off,
            prefix_cache_size: ByteSize(2_000_000_000),
            prefix_cache_dtype: outputs::Dtype::F32,
            threads: Threads::default(),
            logging_steps: 10,
            eval_steps: None,
            generate_samples: 0,
            generation_max_new_tokens: None,
            eval_tasks: Vec::new(),
            eval_tasks_limit: None,
            save_strategy: None,
            save_steps: None,
            report_to: ReportTo::default(),
            run_name: None,
            wandb_project: None,
            wandb_entity: None,
            wandb_name: None,
            mlflow_tracking_uri: None,
            mlflow_experiment_name: None,
            trackio_project_name: None,
            hub_model_id: None,
            hub_strategy: None,
            hub_private_repo: false,
            hub_revision: None,
            save_total_limit: None,
            save_only_model: false,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            resume_from_checkpoint: None,
            on_nonfinite: OnNonfinite::Stop,
            early_stopping: grades::EarlyStopping::default(),
        }
    }
}
