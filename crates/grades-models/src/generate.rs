//! Text generation, token by token, with a KV cache: of one text, or of several at once.

use std::ops::ControlFlow;

use crate::Error;
use crate::model::{Decoder, Inputs, KvCache, KvCaches};
use crate::sampling::Sampler;
use crate::tokenizer::{StreamDecoder, Tokenizer};

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

/// Continues `prompt`, one sample, handing each new piece of text to `show` as soon as it is whole.
///
/// # Errors
/// If the prompt is empty, has a token that the model does not know, or is longer than the model's context.
pub fn generate(
    model: &Decoder,
    tokenizer: &Tokenizer,
    prompt: &Inputs,
    limits: &Limits,
    sampler: &mut Sampler,
    mut show: impl FnMut(&str),
) -> Result<Generated, Error> {
    let show = |piece: &str| {
        show(piece);
        ControlFlow::Continue(())
    };
    generate_after(model, tokenizer, (prompt, &mut KvCache::default()), limits, sampler, show)
}

/// The same behind what a cache holds, which the prompt and what is written join, until `show`, which is called after each token, breaks it
/// off. A model whose texts are turned anew when they grow ([`Decoder::turns_anew`]) needs an empty one.
///
/// # Errors
/// As [`generate`].
pub fn generate_after(
    model: &Decoder,
    tokenizer: &Tokenizer,
    (prompt, cache): (&Inputs, &mut KvCache),
    limits: &Limits,
    sampler: &mut Sampler,
    mut show: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, Error> {
    let before = cache.tokens();
    let room = room(model, &prompt.ids, before)?;
    let mut writing = Writing::new(tokenizer);
    let mut unread = prompt.clone();
    let mut flow = ControlFlow::Continue(());
    while flow.is_continue() && !writing.ended && writing.tokens.len() < limits.max_new_tokens.min(room) {
        if before == 0 && model.outgrows(cache, unread.ids.len()) {
            *cache = KvCache::default();
            unread = prompt.followed_by(&writing.tokens);
        }
        let logits = model.logits_after(&unread, cache);
        if let Some(next) = writing.choose(&logits.to_host(), sampler, limits, &mut |piece| flow = show(piece))? {
            unread = Inputs::sample(vec![next]);
        }
    }
    Ok(writing.finish(&mut |piece| {
        let _ = show(piece);
    }))
}

/// Continues several prompts at once, the segments of `prompts`, each with a sampler of its own, to its own end: the texts that
/// each would become alone, but for rounding.
///
/// # Errors
/// As [`generate`], and if there are pictures in texts that are turned anew when they grow.
pub fn generate_each(
    model: &Decoder,
    tokenizer: &Tokenizer,
    prompts: &Inputs,
    limits: &Limits,
    samplers: &mut [Sampler],
) -> Result<Vec<Generated>, Error> {
    let segments = prompts.layout.segments.iter().map(|segment| segment.query.clone());
    let alone: Vec<&[u32]> = segments.map(|segment| &prompts.ids[segment]).collect();
    let rooms: Vec<usize> = alone.iter().map(|ids| room(model, ids, 0)).collect::<Result<_, _>>()?;
    let most: Vec<usize> = rooms.iter().map(|&room| limits.max_new_tokens.min(room)).collect();
    let lengths = || alone.iter().map(|ids| ids.len());
    let (shortest, longest) = (lengths().min().unwrap_or(1), lengths().zip(&most).map(|(len, most)| len + most).max());
    if model.turns_anew(shortest, longest.unwrap_or(1)) {
        if prompts.replaced.is_some() {
            return Err(Error::Input(
                "texts with pictures cannot grow beyond the length up to which this model turns all alike; ask one at a time"
                    .to_owned(),
            ));
        }
        let one = |(ids, sampler): (&&[u32], &mut Sampler)| {
            generate(model, tokenizer, &Inputs::sample(ids.to_vec()), limits, sampler, |_| {})
        };
        return alone.iter().zip(samplers).map(one).collect();
    }
    let mut caches = KvCaches::with_room(&lengths().zip(&most).map(|(len, most)| len + most).collect::<Vec<_>>());
    let mut writing: Vec<Writing<'_>> = alone.iter().map(|_| Writing::new(tokenizer)).collect();
    // There is room for a token behind every prompt.
    let mut going: Vec<usize> = (0..if limits.max_new_tokens > 0 { alone.len() } else { 0 }).collect();
    let vocabulary = model.sizes().vocab_size;
    let mut unread: Option<Vec<u32>> = None;
    while !going.is_empty() {
        let logits = match &unread {
            None => model.first_logits_of_each(prompts, &mut caches),
            Some(ids) => model.next_logits_of_each(ids, &going, &mut caches),
        };
        let mut next = Vec::with_capacity(going.len());
        for (&sample, logits) in going.iter().zip(logits.to_host().chunks_exact(vocabulary)) {
            let chosen = writing[sample].choose(logits, &mut samplers[sample], limits, &mut |_| {})?;
            let goes_on = chosen.filter(|_| writing[sample].tokens.len() < most[sample]);
            next.extend(goes_on.map(|token| (sample, token)));
        }
        going = next.iter().map(|(sample, _)| *sample).collect();
        unread = Some(next.into_iter().map(|(_, token)| token).collect());
    }
    Ok(writing.into_iter().map(|writing| writing.finish(&mut |_| {})).collect())
}

/// A text that is being written.
struct Writing<'a> {
    stream: StreamDecoder<'a>,
    text: String,
    tokens: Vec<u32>,
    ended: bool,
}

impl<'a> Writing<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { stream: tokenizer.stream(true), text: String::new(), tokens: Vec::new(), ended: false }
    }

    /// The next token, unless it ends the text.
    fn choose(
        &mut self,
        logits: &[f32],
        sampler: &mut Sampler,
        limits: &Limits,
        show: &mut impl FnMut(&str),
    ) -> Result<Option<u32>, Error> {
        let next = sampler.sample(logits)?;
        if limits.stop.contains(&next) {
            self.ended = true;
            return Ok(None);
        }
        self.tokens.push(next);
        let piece = self.stream.push(next);
        show(&piece);
        self.text += &piece;
        Ok(Some(next))
    }

    fn finish(self, show: &mut impl FnMut(&str)) -> Generated {
        let rest = self.stream.finish();
        show(&rest);
        Generated { text: self.text + &rest, tokens: self.tokens, finished: self.ended }
    }
}

/// How many tokens the model's context has room for behind a prompt, before which there are others.
fn room(model: &Decoder, prompt: &[u32], before: usize) -> Result<usize, Error> {
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
    let tokens = before + prompt.len();
    if tokens >= config.max_position_embeddings {
        return Err(Error::Input(format!(
            "the prompt has {tokens} tokens, but the model's context is {}; shorten the prompt",
            config.max_position_embeddings
        )));
    }
    Ok(config.max_position_embeddings - tokens)
}
