//! A request as what is to be written for it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

use grades_models::tokenizer::Tokenizer;

use super::Shared;
use super::api::{Asked, Kind, Prompt, Tokens};
use super::error::ApiError;
use super::queue::{Event, Job};
use crate::data::record::Place;
use crate::data::{Around, Encode, Vision, prompt};
use crate::encoder::Encoder;
use crate::loaded::Loaded;
use crate::train::TrainError;

/// What is needed of a model to understand requests.
pub(super) struct Served<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    encoder: Encoder<'a>,
    vision: Option<&'a Vision>,
    ends_of_text: Arc<Vec<u32>>,
    ends_of_turn: Arc<Vec<u32>>,
    context: usize,
    vocabulary: usize,
}

impl<'a> Served<'a> {
    /// Of a loaded model.
    pub(super) fn of(loaded: &'a Loaded) -> Result<Self, TrainError> {
        let model = &loaded.model;
        Ok(Self {
            tokenizer: &loaded.tokenizer,
            encoder: loaded.encoder(),
            vision: loaded.vision.as_deref(),
            ends_of_text: Arc::new(loaded.ends(false)?),
            ends_of_turn: Arc::new(loaded.ends(true)?),
            context: loaded.even_context(),
            vocabulary: model.sizes().vocab_size,
        })
    }
}

impl Shared<'_> {
    /// The prompts of a request as tokens, and the texts that are to be written, of which `events` tells until they are `gone`.
    ///
    /// # Errors
    /// What is asked for is not there, or more than there may be.
    pub(super) fn jobs(
        &self,
        asked: &Asked,
        events: &Sender<(usize, Event)>,
        gone: &Arc<AtomicBool>,
    ) -> Result<(Vec<Tokens>, Vec<Job>), ApiError> {
        if let Some(name) = asked.model.as_deref().filter(|name| *name != self.options.name) {
            return Err(self.unknown_model(name));
        }
        self.check_bias(asked)?;
        let (texts, most) = (asked.prompts.len() * asked.options.n, self.options.max_queue);
        if texts > most {
            let name = if asked.kind == Kind::Chat { "n" } else { "prompt" };
            return Err(ApiError::field(name, format_args!("asks for {texts} texts, but {most} may wait here")));
        }
        let prompts = asked.prompts.iter().map(|prompt| self.tokens(asked, prompt)).collect::<Result<Vec<_>, _>>()?;
        let mut jobs = Vec::with_capacity(texts);
        for prompt in &prompts {
            for _ in 0..asked.options.n {
                jobs.push(self.job(asked, prompt, jobs.len(), (events.clone(), gone.clone()))?);
            }
        }
        Ok((prompts, jobs))
    }

    /// What is said to who wants another model.
    pub(super) fn unknown_model(&self, name: &str) -> ApiError {
        let message = format!("there is no model {name:?} here; the one that is served is {:?}", self.options.name);
        ApiError { param: Some("model".to_owned()), ..ApiError::new(404, "model_not_found", message) }
    }

    /// Refuses biases of tokens that the model does not have, as those of another model's tokenizer are.
    fn check_bias(&self, asked: &Asked) -> Result<(), ApiError> {
        let vocabulary = self.loaded.vocabulary;
        match asked.options.penalties.bias.iter().find(|(id, _)| *id as usize >= vocabulary) {
            Some((id, _)) => {
                let problem = format!("has token {id}, but the model has {vocabulary}; give ids of its own tokenizer");
                Err(ApiError::field("logit_bias", problem))
            }
            None => Ok(()),
        }
    }

    fn tokens(&self, asked: &Asked, asked_prompt: &Prompt) -> Result<Tokens, ApiError> {
        let Served { tokenizer, encoder, vision, vocabulary, .. } = &self.loaded;
        let name = if asked.kind == Kind::Chat { "messages" } else { "prompt" };
        let mut pictures = Vec::new();
        let ids = match asked_prompt {
            Prompt::Conversation(conversation) => {
                let place = Place::named("the conversation");
                let tokens = prompt(conversation, encoder, *vision, &place);
                let tokens =
                    tokens.map_err(|problem| ApiError::field(name, format_args!("cannot be used: {problem}")))?;
                pictures = tokens.pictures;
                tokens.ids
            }
            Prompt::Text(text) => {
                let encoded = encoder.encode(text, Around::Beginning);
                encoded.map_err(|problem| ApiError::field(name, format_args!("cannot be used: {problem}")))?.ids
            }
            Prompt::Tokens(ids) => ids.clone(),
        };
        if let Some(id) = ids.iter().find(|id| **id as usize >= *vocabulary) {
            return Err(ApiError::field(name, format_args!("has token {id}, but the model has {vocabulary}")));
        }
        if ids.is_empty() {
            return Err(ApiError::field(name, "has no tokens; give it at least one"));
        }
        let most = self.options.max_prompt_tokens.min(self.loaded.context - 1);
        if ids.len() > most {
            let problem = format!("has {} tokens, but at most {most} are read here; shorten it", ids.len());
            return Err(ApiError { code: Some("context_length_exceeded"), ..ApiError::field(name, problem) });
        }
        let text = match asked_prompt {
            Prompt::Text(text) => text.clone(),
            _ if asked.echo => tokenizer.decode(&ids, false),
            _ => String::new(),
        };
        Ok(Tokens { ids: Arc::new(ids), pictures: Arc::new(pictures), text })
    }

    fn job(
        &self,
        asked: &Asked,
        prompt: &Tokens,
        index: usize,
        (events, gone): (Sender<(usize, Event)>, Arc<AtomicBool>),
    ) -> Result<Job, ApiError> {
        let most = self.options.max_new_tokens;
        if let Some((wanted, name)) = asked.options.max_tokens.filter(|(wanted, _)| *wanted > most) {
            return Err(ApiError::field(
                name,
                format_args!("is {wanted}, but an answer has at most {most} tokens here"),
            ));
        }
        let wanted = asked.options.max_tokens.map_or(most, |(wanted, _)| wanted);
        let ends = if asked.kind == Kind::Chat { &self.loaded.ends_of_turn } else { &self.loaded.ends_of_text };
        Ok(Job {
            prompt: prompt.ids.clone(),
            pictures: prompt.pictures.clone(),
            ends: ends.clone(),
            sampler: asked.options.sampler(index)?,
            penalties: asked.options.penalties.clone(),
            stop: asked.options.stop.clone(),
            max_new_tokens: wanted.min(self.loaded.context - prompt.ids.len()),
            logprobs: asked.logprobs,
            echo: asked.echo,
            index,
            events,
            gone,
        })
    }
}
