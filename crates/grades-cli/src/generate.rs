//! `grades generate`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use grades_models::generate::{Generated, Limits, generate, generate_each};
use grades_models::template::ChatTemplate;
use grades_models::tokenizer::Around;
use grades_train::config::{ImageBackend, Precision};
use grades_train::data::conversation::Conversation;
use grades_train::data::record::Place;
use grades_train::data::{Encode, MARKER, Picture, Tokenized, prompt};
use grades_train::loaded::{Loaded, Loading};
use serde_json::json;

use crate::draws::Draws;
use crate::output;
use crate::parts::Parts;

/// Continue a text, or answer a question about pictures.
///
/// Without --temperature the most likely token is taken each time. With --chat or --image the prompt is the user's message,
/// put into the model's chat template. The text ends at each end-of-text token that the tokenizer, generation_config.json or
/// config.json names, and in a chat at the template's end of a turn. Pictures stand where the prompt has <image>, as many as
/// there are files, or first, if it has none. With several prompts the texts are written at once, and each is printed when
/// all are done; each takes as many of the pictures, in their order, as it has <image>.
///
/// Example: grades generate --model runs/vqa/model --image photo.jpg --prompt "What is this?"
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of a run, a model folder in the Hugging Face layout, a GGUF file, a model of the Hugging Face Hub
    /// (owner/name), or the folder of an adapter that names its base.
    #[arg(long)]
    model: PathBuf,
    /// The folder of an adapter for it, as PEFT stores them.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Hold the model's matrices in 4 bits, as training with load_in_4bit does: quantised ones as they are, others in NF4.
    #[arg(long)]
    load_in_4bit: bool,
    /// The text to continue. May be given several times.
    #[arg(long, required = true)]
    prompt: Vec<String>,
    /// A picture (PNG, JPEG, WebP, GIF, BMP) for a model that reads pictures. May be given several times.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Whose resize pictures go through: auto (what the model's processor says), pillow or torchvision. Give what it was trained with.
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    image_backend: ImageBackend,
    /// Put the prompt into the model's chat template as the user's message.
    #[arg(long)]
    chat: bool,
    /// Most tokens to write.
    #[arg(long, default_value_t = 64, visible_alias = "max-tokens")]
    max_new_tokens: usize,
    #[command(flatten)]
    draws: Draws,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let pictures = self.pictures()?;
        let parts = Parts::given(&self.model, self.adapter.as_deref())?;
        let options = Loading {
            adapter: parts.adapter.as_deref(),
            fold_adapter: true,
            load_in_4bit: self.load_in_4bit,
            image_backend: self.image_backend,
            precision: Precision::F32,
        };
        let mut loaded = Loaded::open(&parts.model, options)?;
        let chat = self.chat || !self.image.is_empty();
        if chat && loaded.vision.is_none() {
            ChatTemplate::of(&loaded.tokenizer).context("the model has no chat template; leave --chat out")??;
        }
        let limits = Limits { max_new_tokens: self.max_new_tokens, stop: loaded.ends(chat)? };
        let sampler = self.draws.sampler()?;
        let encoder = loaded.encoder();
        let tokens = |(text, pictures): (&String, Vec<Picture>)| -> anyhow::Result<Tokenized> {
            if !chat {
                let ids = encoder.encode(text, Around::Beginning).map_err(anyhow::Error::from_boxed)?.ids;
                return Ok(Tokenized { ids, ..Tokenized::default() });
            }
            let mut conversation = Conversation::default();
            let refused = |problem| anyhow::anyhow!("the prompt: {problem}");
            conversation.say("user", text, pictures).map_err(refused)?;
            prompt(&conversation, &encoder, loaded.vision.as_deref(), &Place::named("the prompt")).map_err(refused)
        };
        let prompts: Vec<Tokenized> = self.prompt.iter().zip(pictures).map(tokens).collect::<Result<_, _>>()?;
        let inputs = loaded.inputs(&prompts)?;
        let (model, tokenizer) = (&loaded.model, &loaded.tokenizer);
        if let [prompt] = prompts.as_slice() {
            let show = |piece: &str| {
                if !json {
                    output::print_piece(piece);
                }
            };
            let generated = generate(model, tokenizer, &inputs, &limits, &mut sampler.clone(), show)?;
            if !json {
                output::print("");
                return Ok(());
            }
            return output::print_json(&result(&self.prompt[0], prompt, &generated));
        }
        let mut samplers = vec![sampler; prompts.len()];
        let all = generate_each(model, tokenizer, &inputs, &limits, &mut samplers)?;
        if !json {
            for (text, generated) in self.prompt.iter().zip(&all) {
                output::print(&format!("> {text}\n{}\n", generated.text));
            }
            return Ok(());
        }
        let results = self.prompt.iter().zip(&prompts).zip(&all).map(|((text, prompt), one)| result(text, prompt, one));
        output::print_json(&json!({ "texts": results.collect::<Vec<_>>() }))
    }

    /// The pictures of each prompt.
    fn pictures(&self) -> anyhow::Result<Vec<Vec<Picture>>> {
        let file = |path: &PathBuf| -> anyhow::Result<Picture> {
            let known = path.is_file().then(|| Picture::File(path.as_path().into()));
            known.with_context(|| format!("{}: there is no such picture", path.display()))
        };
        let mut files = self.image.iter().map(file).collect::<anyhow::Result<Vec<_>>>()?.into_iter();
        let given = files.len();
        let marked = |prompt: &String| prompt.matches(MARKER).count();
        let markers: usize = self.prompt.iter().map(marked).sum();
        if given == 0 || (self.prompt.len() == 1 && markers == 0) {
            let mut pictures = vec![files.collect()];
            pictures.resize(self.prompt.len(), Vec::new());
            return Ok(pictures);
        }
        if markers != given {
            bail!(
                "there are {markers} {MARKER} in the prompt, but {given} pictures; make them agree, or with a single prompt leave \
                 {MARKER} out"
            );
        }
        Ok(self.prompt.iter().map(|prompt| files.by_ref().take(marked(prompt)).collect()).collect())
    }
}

/// What `--json` tells of a text.
fn result(text: &str, prompt: &Tokenized, generated: &Generated) -> serde_json::Value {
    json!({
        "prompt": text,
        "prompt_tokens": prompt.ids.len(),
        "text": generated.text,
        "tokens": generated.tokens,
        "finished": generated.finished,
    })
}
