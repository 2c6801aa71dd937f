//! `grades serve`.

use std::env;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use grades_train::config::{ImageBackend, Precision};
use grades_train::loaded::{Loaded, Loading};
use grades_train::serve::{Options, Server};
use grades_train::train::Interrupt;
use serde_json::json;

use crate::output;
use crate::parts::Parts;

/// Where the key is, unless an option has it.
const API_KEY: &str = "GRADES_API_KEY";

/// Answer requests to OpenAI's API with a model.
///
/// Under /v1 there are chat/completions, completions and models, and beside them /health. Any client of that API talks with it:
/// streaming, stop, seed, logprobs, n, and top_k, min_p, repetition_penalty, chat_template_kwargs as extensions. Requests are
/// written together, a token each a pass; what one gets does not depend on the others. Ctrl-C ends it.
///
/// Example: grades serve runs/first, and then OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="-")
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of a run, a model folder in the Hugging Face layout, a GGUF file, a model of the Hugging Face Hub
    /// (owner/name), or the folder of an adapter.
    source: PathBuf,
    /// The base of an adapter; left out, that which the adapter names.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Hold the model's matrices in 4 bits, as training with load_in_4bit does: quantised ones as they are, others in NF4.
    #[arg(long)]
    load_in_4bit: bool,
    /// The address to listen at; others than this machine itself reach it only at another, such as 0.0.0.0.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 for any that is free.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// A key that clients must show; also from the environment's GRADES_API_KEY, where other users of the machine cannot see it.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// What the model is called; left out, as its folder or file.
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Most tokens of an answer, and how many one may have whose request does not say.
    #[arg(long, default_value = "1024")]
    max_new_tokens: NonZeroUsize,
    /// Most tokens of a prompt.
    #[arg(long, default_value = "4096")]
    max_prompt_tokens: NonZeroUsize,
    /// Most texts that are written at a time.
    #[arg(long, default_value = "8")]
    parallel: NonZeroUsize,
    /// Most texts that wait for their turn; further ones are told to come again later.
    #[arg(long, default_value = "64")]
    max_queue: NonZeroUsize,
    /// Seconds that an answer may take, the wait included.
    #[arg(long, default_value = "600")]
    timeout: NonZeroUsize,
    /// Numbers of the matrix products: auto (bf16 where the processor has them), f32 or bf16.
    #[arg(long, default_value = "f32")]
    precision: Precision,
}

impl Args {
    pub(crate) fn run(self, json: bool, interrupt: &Interrupt) -> anyhow::Result<()> {
        let key = self.api_key.or_else(|| env::var(API_KEY).ok());
        if key.as_ref().is_some_and(|key| key.trim().is_empty()) {
            bail!("the API key is empty; give one with --api-key or {API_KEY}, or leave both out");
        }
        let (is_open, name) = (key.is_none(), self.served_model_name.unwrap_or_else(|| name(&self.source)));
        let server = Server::bind(Options {
            host: self.host,
            port: self.port,
            api_key: key,
            name: name.clone(),
            max_new_tokens: self.max_new_tokens.get(),
            max_prompt_tokens: self.max_prompt_tokens.get(),
            parallel: self.parallel.get(),
            max_queue: self.max_queue.get(),
            timeout: Duration::from_secs(self.timeout.get() as u64),
            ..Options::default()
        })?;
        let (address, parts) = (server.address(), Parts::of(&self.source, self.base.as_deref())?);
        if is_open && !address.ip().is_loopback() {
            output::log(&format!(
                "warning: whoever reaches {address} may use the model; give a key with --api-key or {API_KEY}"
            ));
        }
        let options = Loading {
            adapter: parts.adapter.as_deref(),
            fold_adapter: true,
            load_in_4bit: self.load_in_4bit,
            image_backend: ImageBackend::Auto,
            precision: self.precision,
        };
        let loaded = Loaded::open(&parts.model, options)?;
        let url = format!("http://{address}/v1");
        if json {
            output::print_json(&json!({ "url": url, "model": name }))?;
        } else {
            output::log(&format!("{name} is served at {url}; Ctrl-C ends it"));
        }
        Ok(server.run(&loaded, interrupt)?)
    }
}

/// What a model is called: a model of the Hub by its whole name, any other as its folder or file.
fn name(source: &Path) -> String {
    let file = source.canonicalize().ok().filter(|path| path.exists());
    let stem = |path: &Path| match path.extension().is_some_and(|ending| ending == "gguf") {
        true => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
        false => path.file_name().map(|name| name.to_string_lossy().into_owned()),
    };
    file.as_deref().and_then(stem).unwrap_or_else(|| source.display().to_string())
}
