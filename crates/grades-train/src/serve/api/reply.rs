//! What is told of texts, whole or piece by piece.

use grades_models::calendar;
use grades_models::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::{Asked, Kind, Tokens};
use crate::random;
use crate::serve::error::ApiError;
use crate::serve::logprobs::Told;
use crate::serve::queue::{Event, Finish};

/// What JSON has for the logarithm of nothing, as OpenAI's API.
const NEVER: f64 = -9999.0;

/// The answer to a request, as it grows.
pub(in crate::serve) struct Reply<'a> {
    tokenizer: &'a Tokenizer,
    kind: Kind,
    id: String,
    created: u64,
    model: &'a str,
    include_usage: bool,
    told: bool,
    prompts: Vec<Tokens>,
    choices: Vec<Choice>,
}

/// One of its texts.
#[derive(Clone, Debug, Default)]
struct Choice {
    text: String,
    tokens: Vec<Told>,
    /// Characters of the text before the next token.
    offset: usize,
    began: bool,
    finish: Option<Finish>,
    /// Tokens that were written.
    written: usize,
}

/// A piece of one.
#[derive(Clone, Debug, Default)]
struct Piece {
    text: String,
    tokens: Vec<Told>,
    finish: Option<Finish>,
}

impl<'a> Reply<'a> {
    /// To a request with such prompts.
    pub(in crate::serve) fn new(asked: &Asked, prompts: Vec<Tokens>, model: &'a str, tokenizer: &'a Tokenizer) -> Self {
        let prefix = if asked.kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            tokenizer,
            kind: asked.kind,
            id: format!("{prefix}-{:016x}", random::number()),
            created: calendar::now().as_secs(),
            model,
            include_usage: asked.options.include_usage,
            told: asked.logprobs.is_some(),
            choices: vec![Choice::default(); prompts.len() * asked.options.n],
            prompts,
        }
    }

    /// Whether all texts have ended.
    pub(in crate::serve) fn is_whole(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// Takes in what has become of a text.
    pub(in crate::serve) fn take(&mut self, index: usize, event: Event) -> Result<(), ApiError> {
        let piece = self.piece(index, event)?;
        let choice = &mut self.choices[index];
        choice.text += &piece.text;
        choice.tokens.extend(piece.tokens);
        Ok(())
    }

    /// The same as what is sent of it, one JSON object an event.
    pub(in crate::serve) fn chunks(&mut self, index: usize, event: Event) -> Result<Vec<Value>, ApiError> {
        let piece = self.piece(index, event)?;
        let mut chunks = Vec::new();
        if self.kind == Kind::Chat && !std::mem::replace(&mut self.choices[index].began, true) {
            let delta = json!({ "role": "assistant", "content": "" });
            chunks.push(self.chunk(json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null })));
        }
        let finish = piece.finish.map(Finish::name);
        let logprobs = self.logprobs(&piece.tokens, index);
        let choice = match (self.kind, finish) {
            (Kind::Chat, Some(_)) => {
                json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": finish })
            }
            (Kind::Chat, None) => {
                json!({ "index": index, "delta": { "content": piece.text }, "logprobs": logprobs, "finish_reason": null })
            }
            (Kind::Completion, _) => {
                json!({ "index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": finish })
            }
        };
        chunks.push(self.chunk(choice));
        if self.include_usage && self.is_whole() {
            let mut last = self.envelope(self.chunk_kind(), json!([]));
            last["usage"] = self.usage();
            chunks.push(last);
        }
        Ok(chunks)
    }

    /// The whole answer.
    pub(in crate::serve) fn whole(&mut self) -> Value {
        let mut choices = Vec::with_capacity(self.choices.len());
        for (index, choice) in std::mem::take(&mut self.choices).iter().enumerate() {
            let finish = choice.finish.map(Finish::name);
            self.choices.push(Choice { tokens: Vec::new(), text: String::new(), ..choice.clone() });
            let logprobs = self.logprobs(&choice.tokens, index);
            choices.push(match self.kind {
                Kind::Chat => {
                    let message = json!({ "role": "assistant", "content": choice.text, "refusal": null });
                    json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": finish })
                }
                Kind::Completion => {
                    json!({ "index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": finish })
                }
            });
        }
        let kind = if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" };
        let mut whole = self.envelope(kind, choices.into());
        whole["usage"] = self.usage();
        whole
    }

    fn piece(&mut self, index: usize, event: Event) -> Result<Piece, ApiError> {
        let answers = self.choices.len() / self.prompts.len().max(1);
        match event {
            Event::Prompt(tokens) => {
                Ok(Piece { text: self.prompts[index / answers.max(1)].text.clone(), tokens, finish: None })
            }
            Event::Piece(text, tokens) => Ok(Piece { text, tokens, finish: None }),
            Event::End(finish, written) => {
                let choice = &mut self.choices[index];
                (choice.finish, choice.written) = (Some(finish), written);
                Ok(Piece { finish: Some(finish), ..Piece::default() })
            }
            Event::Failed(error) => Err(error),
        }
    }

    fn chunk_kind(&self) -> &'static str {
        if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn chunk(&self, choice: Value) -> Value {
        let mut chunk = self.envelope(self.chunk_kind(), json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn envelope(&self, object: &str, choices: Value) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices })
    }

    fn usage(&self) -> Value {
        let prompt: usize = self.prompts.iter().map(|prompt| prompt.ids.len()).sum();
        let written: usize = self.choices.iter().map(|choice| choice.written).sum();
        json!({ "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written })
    }

    /// What is told of tokens that stand behind those of choice `index` that were told before.
    fn logprobs(&mut self, tokens: &[Told], index: usize) -> Value {
        if !self.told || (tokens.is_empty() && self.kind == Kind::Chat) {
            return Value::Null;
        }
        let name = |id: u32| self.tokenizer.decode(&[id], false);
        let number = |logprob: f64| if logprob.is_finite() { logprob } else { NEVER };
        if self.kind == Kind::Chat {
            let entry = |id: u32, logprob: f64| {
                let name = name(id);
                // Of a token that is a part of a character the bytes are not known here.
                let bytes = (!name.contains(char::REPLACEMENT_CHARACTER)).then(|| name.as_bytes().to_vec());
                json!({ "token": name, "logprob": number(logprob), "bytes": bytes })
            };
            let content = tokens.iter().map(|token| {
                let mut told = entry(token.id, token.logprob.unwrap_or_default());
                told["top_logprobs"] = token.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
                told
            });
            return json!({ "content": content.collect::<Vec<_>>(), "refusal": null });
        }
        let names: Vec<String> = tokens.iter().map(|token| name(token.id)).collect();
        let top = |token: &Told| {
            let others = token.top.iter().map(|&(id, logprob)| (name(id), number(logprob).into()));
            // The token itself is there, too, as in OpenAI's API.
            let itself = token.logprob.map(|logprob| (name(token.id), number(logprob).into()));
            token.logprob.map(|_| others.chain(itself).collect::<Map<String, Value>>())
        };
        let top: Vec<_> = tokens.iter().map(top).collect();
        let offset = &mut self.choices[index].offset;
        let offsets = names.iter().map(|name| {
            let start = *offset;
            *offset += name.chars().count();
            start
        });
        let offsets: Vec<usize> = offsets.collect();
        let logprobs: Vec<Option<f64>> = tokens.iter().map(|token| token.logprob.map(number)).collect();
        json!({ "tokens": names, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets })
    }
}
