//! A text that is being written for a request: what was read of its prompt, what is drawn, and what of that may be told already.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use grades_models::sampling::SamplingError;
use grades_models::tokenizer::{StreamDecoder, Tokenizer};
use grades_models::{Decoder, KvCaches};
use grades_tensor::IGNORE_INDEX;

use super::error::ApiError;
use super::logprobs::Told;
use super::queue::{Event, Finish, Job};
use super::stop_strings::StopStrings;
use crate::data::Tokenized;
use crate::loaded::inputs;
use crate::train::Reader;

/// Tokens of a prompt that are read at once, so that others need not wait long.
const CHUNK: usize = 256;

/// A text that is being written.
pub(super) struct Sequence<'a> {
    job: Job,
    /// Its number in the caches.
    pub(super) sample: usize,
    /// How many tokens of the prompt were read.
    read: usize,
    told_of_prompt: Vec<Told>,
    /// The token that was written last, and not yet read.
    pub(super) unread: Option<u32>,
    written: Vec<u32>,
    stream: StreamDecoder<'a>,
    stop: StopStrings,
    /// Bytes of the text, and how many of them were told.
    bytes: (usize, usize),
    /// Tokens that were not told yet, with the byte at which each begins.
    untold: VecDeque<(usize, Told)>,
    ended: bool,
}

impl<'a> Sequence<'a> {
    /// Gives a job its room.
    pub(super) fn begin(mut job: Job, tokenizer: &'a Tokenizer, caches: &mut KvCaches) -> Self {
        let stop = StopStrings::new(std::mem::take(&mut job.stop));
        Self {
            sample: caches.join(job.prompt.len() + job.max_new_tokens),
            read: 0,
            told_of_prompt: Vec::new(),
            unread: None,
            written: Vec::new(),
            stream: tokenizer.stream(true),
            stop,
            bytes: (0, 0),
            untold: VecDeque::new(),
            ended: false,
            job,
        }
    }

    /// Whether it needs nothing more.
    pub(super) fn is_over(&self) -> bool {
        self.ended || self.job.gone.load(Relaxed)
    }

    /// Whether its prompt is not wholly read.
    pub(super) fn reads(&self) -> bool {
        self.read < self.job.prompt.len()
    }

    /// Reads the next part of the prompt, and behind the last one writes the first token. One with pictures is read as a whole.
    pub(super) fn read(&mut self, model: &Decoder, reader: &mut Reader, caches: &mut KvCaches) {
        if !self.job.pictures.is_empty() {
            return self.read_with_pictures(model, reader, caches);
        }
        let prompt = self.job.prompt.clone();
        let (start, end) = (self.read, prompt.len().min(self.read + CHUNK));
        let last = end == prompt.len();
        let of_prompt = self.job.logprobs.filter(|_| self.job.echo);
        let wanted = match of_prompt {
            Some(_) => end - start,
            None => usize::from(last),
        };
        let logits = model.read_on(&prompt[start..end], wanted, self.sample, caches);
        self.read = end;
        let Some(logits) = logits else { return };
        let (logits, vocabulary) = (logits.to_host(), model.sizes().vocab_size);
        if let Some(others) = of_prompt {
            if start == 0 {
                self.told_of_prompt.push(Told { id: prompt[0], logprob: None, top: Vec::new() });
            }
            let following = prompt[start + 1..].iter().zip(logits.chunks_exact(vocabulary));
            self.told_of_prompt.extend(following.map(|(&id, logits)| Told::of(id, logits, others)));
        }
        if last {
            if self.job.echo {
                let told = std::mem::take(&mut self.told_of_prompt);
                self.tell(Event::Prompt(told));
            }
            self.write(&logits[logits.len() - vocabulary..]);
        }
    }

    fn read_with_pictures(&mut self, model: &Decoder, reader: &mut Reader, caches: &mut KvCaches) {
        let ids = self.job.prompt.to_vec();
        let pictures = self.job.pictures.to_vec();
        self.read = ids.len();
        match inputs(model, reader, &[Tokenized { labels: vec![IGNORE_INDEX; ids.len()], ids, pictures }]) {
            Ok(inputs) => {
                let logits = model.read_whole(&inputs, self.sample, caches);
                self.write(&logits.to_host());
            }
            // What stands in a file's head was looked at before.
            Err(error) => {
                self.ended = true;
                self.tell(Event::Failed(ApiError::field("messages", format_args!("cannot be used: {error}"))));
            }
        }
    }

    /// Writes the next token, for which these are the logits.
    pub(super) fn write(&mut self, logits: &[f32]) {
        self.unread = None;
        if self.written.len() >= self.job.max_new_tokens {
            return self.end(Finish::Length);
        }
        let next = match self.draw(logits) {
            Ok(next) => next,
            Err(error) => {
                self.ended = true;
                return self.tell(Event::Failed(ApiError::new(500, "broken_model", error.to_string())));
            }
        };
        if self.job.ends.contains(&next) {
            return self.end(Finish::Stop);
        }
        self.written.push(next);
        if let Some(others) = self.job.logprobs {
            self.untold.push_back((self.bytes.0, Told::of(next, logits, others)));
        }
        let piece = self.stream.push(next);
        if self.show(&piece) {
            return self.close(Finish::Stop);
        }
        if self.written.len() == self.job.max_new_tokens {
            return self.end(Finish::Length);
        }
        self.unread = Some(next);
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        if self.job.penalties.are_none() {
            return self.job.sampler.sample(logits);
        }
        let mut logits = logits.to_vec();
        self.job.penalties.apply(&mut logits, &self.job.prompt, &self.written);
        self.job.sampler.sample(&logits)
    }

    /// Tells what is certain of the text with a further piece; whether a stop has ended it.
    fn show(&mut self, piece: &str) -> bool {
        self.bytes.0 += piece.len();
        let (text, stopped) = self.stop.push(piece);
        self.tell_text(text, stopped);
        stopped
    }

    /// Tells a piece, with the tokens that begin in what was told; and of a text that is all, those alone.
    fn tell_text(&mut self, text: String, is_all: bool) {
        self.bytes.1 += text.len();
        let told = self.bytes.1;
        let certain = self.untold.iter().take_while(|(start, _)| *start < told).count();
        let tokens: Vec<Told> = self.untold.drain(..certain).map(|(_, token)| token).collect();
        if is_all {
            self.untold.clear();
        }
        if !text.is_empty() || !tokens.is_empty() {
            self.tell(Event::Piece(text, tokens));
        }
    }

    /// Ends it, unless a stop is in what the last tokens leave over.
    fn end(&mut self, finish: Finish) {
        let rest = self.stream.finish();
        if self.show(&rest) {
            return self.close(Finish::Stop);
        }
        let held = self.stop.finish();
        let tokens: Vec<Told> = self.untold.drain(..).map(|(_, token)| token).collect();
        if !held.is_empty() || !tokens.is_empty() {
            self.tell(Event::Piece(held, tokens));
        }
        self.close(finish);
    }

    fn close(&mut self, finish: Finish) {
        self.ended = true;
        self.unread = None;
        self.tell(Event::End(finish, self.written.len()));
    }

    fn tell(&mut self, event: Event) {
        if self.job.events.send((self.job.index, event)).is_err() {
            self.ended = true;
        }
    }
}
