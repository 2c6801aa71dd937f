//! What a step is measured with.

use grades::Companions;
use grades_models::model::Vision as Tower;
use grades_models::nn::Grid;
use grades_models::{LoraConfig, registry};
use grades_tensor::Dtype;
use serde::{Serialize, Serializer};

use super::scaling::MOST_THREADS;
use super::{BenchError, Frozen, Shape};

/// Most pictures of a row, and pixels along a side of one.
const MOST_PICTURES: usize = 64;
const LARGEST: usize = 4096;

/// α of the adapters, in their ranks.
const ALPHA: f64 = 2.0;

/// What trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every parameter.
    #[default]
    Full,
    /// Adapters on the seven projections of every layer of the language model.
    Lora,
    /// Nothing: the forward pass alone, as in evaluation.
    Forward,
}

impl Mode {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora => "lora",
            Self::Forward => "forward",
        }
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepOptions {
    /// The model.
    pub shape: Shape,
    /// What trains.
    pub mode: Mode,
    /// Rank of the adapters.
    pub lora_r: usize,
    /// Whether the matrices under the adapters are in NF4.
    pub load_in_4bit: bool,
    /// What the file of a model has of which nothing trains itself: f32, or as most are published bf16, in which it is then held.
    pub base: Dtype,
    /// The dtype of the products.
    pub precision: Dtype,
    /// Rows of the batch.
    pub rows: usize,
    /// Tokens of each row, beside those of its pictures.
    pub tokens: usize,
    /// Pictures of each row, of random pixels, for shapes that read some.
    pub pictures: usize,
    /// Pixels along a side of each; shapes that read one size alone have that.
    pub image_size: usize,
    /// Share of each row's tokens, at its end, that have a label.
    pub completion_share: f64,
    /// Measured steps, after one to warm up.
    pub steps: usize,
    /// The frozen matrices.
    pub frozen: Frozen,
    /// Whether norms and the embedding freeze with them.
    pub companions: Companions,
    /// Whether each step measures the change of every matrix's gradient (L1), and keeps the gradient for the next.
    pub monitor: bool,
    /// The norm that gradients are clipped to; 0 leaves them, and with them the pass that measures their norm.
    pub max_grad_norm: f64,
    /// Whether layers run again in the backward pass.
    pub gradient_checkpointing: bool,
    /// Whether frozen adapters are added to their weights.
    pub fold_frozen: bool,
    /// Whether steps start above the frozen layers, from the outputs that the first step kept. (Training gives the head
    /// of a tied embedding a matrix of its own first, with the same arithmetic.)
    pub prefix_cache: bool,
    /// Numbers of threads on which a step is simulated after the measured ones.
    pub simulated_threads: Vec<usize>,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            shape: Shape::SmolLm2M135,
            base: Dtype::Bf16,
            precision: Dtype::F32,
            mode: Mode::Full,
            lora_r: 32,
            load_in_4bit: false,
            rows: 4,
            tokens: 256,
            pictures: 1,
            image_size: 448,
            completion_share: 1.0,
            steps: 5,
            frozen: Frozen::None,
            companions: Companions::Train,
            monitor: false,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            fold_frozen: false,
            prefix_cache: false,
            simulated_threads: Vec::new(),
        }
    }
}

impl StepOptions {
    pub(super) fn adapter(&self) -> LoraConfig {
        let target_modules = vec!["language.*".to_owned()];
        LoraConfig { r: self.lora_r, lora_alpha: ALPHA * self.lora_r as f64, target_modules, ..LoraConfig::default() }
    }

    /// The patches of the pictures of a row.
    pub(super) fn grids(&self, tower: Option<&Tower>) -> Vec<Grid> {
        tower.map_or_else(Vec::new, |tower| vec![tower.square(self.image_size); self.pictures])
    }

    /// Fails where there is nothing to measure, or what does not go together.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        let StepOptions { shape, mode, load_in_4bit, rows, tokens, completion_share, steps, fold_frozen, .. } = self;
        let StepOptions { pictures, image_size, prefix_cache, .. } = self;
        let longest = registry::sizes(&shape.config())?.max_position_embeddings;
        let wrong = if *rows == 0 || *steps == 0 {
            format!("{rows} rows and {steps} steps leave nothing to measure; both must be at least 1")
        } else if *tokens == 0 || *tokens > longest {
            format!("{tokens} tokens do not fit the shape {shape}; it takes 1 to {longest} a row")
        } else if shape.sees() && (*image_size == 0 || *image_size > LARGEST || *pictures > MOST_PICTURES) {
            format!(
                "{pictures} pictures of {image_size} pixels do not fit; a row takes up to {MOST_PICTURES}, of 1 to {LARGEST} pixels along a side"
            )
        } else if shape.sees() && *prefix_cache && *pictures > 0 {
            "what comes of pictures is kept by picture, in training alone; leave --prefix-cache out, or set --pictures 0"
                .to_owned()
        } else if !(0.0..=1.0).contains(completion_share) {
            format!("the completion share {completion_share} is no share of the tokens; it must lie between 0 and 1")
        } else if let Some(threads) =
            self.simulated_threads.iter().find(|threads| !(1..=MOST_THREADS).contains(*threads))
        {
            format!("a step cannot be simulated on {threads} threads; write 1 to {MOST_THREADS}")
        } else if *fold_frozen && *mode != Mode::Lora {
            "there is no adapter to fold; measure with --mode lora".to_owned()
        } else if *load_in_4bit && *mode == Mode::Full {
            "matrices in 4 bits cannot train; measure adapters beside them, with --mode lora".to_owned()
        } else if *mode == Mode::Forward && self.frozen != Frozen::None {
            "nothing trains in a forward pass, so nothing can be frozen; leave --frozen out".to_owned()
        } else if *load_in_4bit && *fold_frozen {
            "adapters are not added to matrices in 4 bits; leave one of the two out".to_owned()
        } else {
            return Ok(());
        };
        Err(BenchError::Option(wrong))
    }
}
