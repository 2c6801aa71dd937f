//! Text generation, token by token, with a KV cache.

use crate::Error;
use crate::model::{Decoder, KvCache};
use crate::sampling::Sampler;
use crate::tokenizer::Tokenizer;

/// How far to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens to write.
    pub max_new_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<u32>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The text.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Whether the model ended the text itself.
    pub finished: bool,
}

/// Continues `prompt`, handing each new piece of text to `show` as soon as it is whole.
///
/// # Errors
/// If the prompt is empty, has a token that the model does not know, or is longer than the model's context.
pub fn generate(
    model: &Decoder,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    limits: &Limits,
    sampler: &mut Sampler,
    mut show: impl FnMut(&str),
) -> Result<Generated, Error> {
    check_prompt(model, prompt)?;
    let room = model.sizes().max_position_embeddings.saturating_sub(prompt.len());
    let (mut cache, mut stream) = (KvCache::default(), tokenizer.stream(true));
    let mut generated = Generated { text: String::new(), tokens: Vec::new(), finished: false };
    let mut unread = prompt.to_vec();
    while generated.tokens.len() < limits.max_new_tokens.min(room) {
        if model.outgrows(&cache, unread.len()) {
            cache = KvCache::default();
            unread = [prompt, &generated.tokens].concat();
        }
        let logits = model.next_logits(&unread, &mut cache);
        let next = sampler.sample(&logits.to_host())?;
        if limits.stop.contains(&next) {
            generated.finished = true;
            break;
        }
        generated.tokens.push(next);
        let piece = stream.push(next);
        show(&piece);
        generated.text += &piece;
        unread = vec![next];
    }
    let rest = stream.finish();
    show(&rest);
    generated.text += &rest;
    Ok(generated)
}

fn check_prompt(model: &Decoder, prompt: &[u32]) -> Result<(), Error> {
    let config = model.sizes();
    if prompt.is_empty() {
        return Err(Error::Input("the prompt is empty; give it at least one token".into()));
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
        return Err(Error::Input(format!(
            "the prompt holds token {id}, beyond the model's vocabulary of {}; the tokenizer is not this model's",
            config.vocab_size
        )));
    }
    if prompt.len() >= config.max_position_embeddings {
        return Err(Error::Input(format!(
            "the prompt has {} tokens, but the model's context is {}; shorten the prompt",
            prompt.len(),
            config.max_position_embeddings
        )));
    }
    Ok(())
}
