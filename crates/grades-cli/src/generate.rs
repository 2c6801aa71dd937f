//! `grades generate`.

use std::path::PathBuf;

use anyhow::Context;
use grades_models::generate::{Limits, generate};
use grades_models::generation_config::{end_of_turn, end_tokens};
use grades_models::sampling::{Sampler, SamplingOptions};
use grades_models::source::LoadOptions;
use grades_models::template::{ChatTemplate, Given, Message};
use grades_models::tokenizer::{Around, Tokenizer};
use grades_models::weights::Checkpoint;
use grades_models::{peft, registry};
use grades_tensor::device;
use grades_train::hub::Hub;
use serde_json::json;

use crate::output;

/// Continue a text.
///
/// Without --temperature the most likely token is taken each time. With --chat the prompt is the user's message, put
/// into the model's chat template. The text ends at each end-of-text token that the tokenizer, generation_config.json or
/// config.json names, and with --chat at the template's end of a turn.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model folder in the Hugging Face layout, a GGUF file, or a model of the Hugging Face Hub (owner/name).
    #[arg(long)]
    model: PathBuf,
    /// The folder of an adapter for it, as PEFT stores them.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Hold the model's matrices in 4 bits, as training with load_in_4bit does: quantised ones as they are, others in NF4.
    #[arg(long)]
    load_in_4bit: bool,
    /// The text to continue.
    #[arg(long)]
    prompt: String,
    /// Put the prompt into the model's chat template as the user's message.
    #[arg(long)]
    chat: bool,
    /// Most tokens to write.
    #[arg(long, default_value_t = 64, visible_alias = "max-tokens")]
    max_new_tokens: usize,
    /// Randomness: 0 takes the most likely token, 1 follows the model's probabilities.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Draw only from the most likely tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Draw only from this many of the most likely tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let model = Hub::from_env().model(&self.model)?;
        let checkpoint = Checkpoint::open(&model)?;
        let tokenizer = Tokenizer::from_checkpoint(&model)?;
        let mut model = registry::open(&checkpoint, LoadOptions::new(device("auto")?).in_4bit(self.load_in_4bit))?;
        if let Some(adapter) = &self.adapter {
            model = peft::attach(model, adapter)?;
            // Nothing trains here, so on dense weights the adapters need no products of their own.
            model.fold_frozen();
        }
        tokenizer.check_fits(model.sizes().vocab_size)?;
        let mut stop = end_tokens(&checkpoint, &tokenizer)?;
        let (text, around) = if self.chat {
            let template =
                ChatTemplate::of(&tokenizer).context("the model has no chat template; leave --chat out")??;
            stop.extend(end_of_turn(&template, &tokenizer)?);
            let messages = [Message::new("user", &self.prompt)];
            (template.render(&messages, &Given::default(), true)?.text, Around::Template)
        } else {
            (self.prompt.clone(), Around::Beginning)
        };
        let prompt = tokenizer.encode_text(&text, around)?.ids;
        let mut sampler = Sampler::new(SamplingOptions {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
        })?;
        let limits = Limits { max_new_tokens: self.max_new_tokens, stop };
        let show = |piece: &str| {
            if !json {
                output::print_piece(piece);
            }
        };
        let generated = generate(&model, &tokenizer, &prompt, &limits, &mut sampler, show)?;
        if !json {
            output::print("");
            return Ok(());
        }
        output::print_json(&json!({
            "prompt": self.prompt,
            "prompt_tokens": prompt.len(),
            "text": generated.text,
            "tokens": generated.tokens,
            "finished": generated.finished,
        }))
    }
}
