//! A conversation with a loaded model: what was said is kept with its keys and values, so that each turn costs what is new in it.

use std::ops::ControlFlow;

use grades_models::generate::{Generated, Limits, generate_after};
use grades_models::sampling::Sampler;
use grades_models::{Inputs, KvCache};

use crate::data::conversation::Conversation;
use crate::data::record::Place;
use crate::data::vision::PictureText;
use crate::data::{MARKER, Picture, Placed, Tokenized, prompt};
use crate::loaded::Loaded;
use crate::train::TrainError;

/// A conversation with a model.
#[derive(Debug)]
pub struct Chat {
    loaded: Loaded,
    system: Option<String>,
    /// What was said, the system's message not included.
    turns: Vec<Turn>,
    cache: KvCache,
    /// The tokens that the cache holds, and the pictures among them.
    seen: Tokenized,
}

/// Something said.
#[derive(Clone, Debug)]
struct Turn {
    role: &'static str,
    text: String,
    pictures: Vec<Picture>,
}

/// Something that was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// `system`, `user` or `assistant`.
    pub role: &'a str,
    /// What.
    pub text: &'a str,
    /// The pictures that were shown.
    pub pictures: &'a [Picture],
}

impl Said<'_> {
    /// The text with a marker for each picture.
    #[must_use]
    pub fn marked(&self) -> String {
        match self.text.contains(MARKER) {
            true => self.text.to_owned(),
            false => MARKER.repeat(self.pictures.len()) + self.text,
        }
    }
}

impl Chat {
    /// A conversation that nothing was said in.
    #[must_use]
    pub fn new(loaded: Loaded) -> Self {
        Self { loaded, system: None, turns: Vec::new(), cache: KvCache::default(), seen: Tokenized::default() }
    }

    /// Whether the model reads pictures.
    #[must_use]
    pub fn reads_pictures(&self) -> bool {
        self.loaded.vision.is_some()
    }

    /// Forgets what was said, but not the system's message.
    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// Sets the system's message, which counts from the beginning; none if the text is empty.
    pub fn set_system(&mut self, text: &str) {
        self.system = Some(text.to_owned()).filter(|text| !text.is_empty());
    }

    /// What was said.
    pub fn said(&self) -> impl Iterator<Item = Said<'_>> {
        let system = self.system.iter().map(|text| Said { role: "system", text, pictures: &[] });
        system.chain(self.turns.iter().map(|Turn { role, text, pictures }| Said { role, text, pictures }))
    }

    /// Says something with pictures, and hands each piece of the answer to `show` as soon as it is whole. Where that breaks off, the answer
    /// is what was written until then. After an error it is as if nothing had been said.
    ///
    /// # Errors
    /// The chat template refuses the conversation, a picture cannot be read, or the model's context is full.
    pub fn say(
        &mut self,
        text: &str,
        pictures: Vec<Picture>,
        max_new_tokens: usize,
        sampler: &mut Sampler,
        show: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, TrainError> {
        self.turns.push(Turn { role: "user", text: text.to_owned(), pictures });
        let answer = self.answer(max_new_tokens, sampler, show);
        match &answer {
            Ok(answer) => {
                self.turns.push(Turn { role: "assistant", text: answer.text.trim().to_owned(), pictures: Vec::new() });
            }
            Err(_) => {
                self.turns.pop();
            }
        }
        answer
    }

    fn answer(
        &mut self,
        max_new_tokens: usize,
        sampler: &mut Sampler,
        show: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, TrainError> {
        let (whole, inputs) = self.read()?;
        let limits = Limits { max_new_tokens, stop: self.loaded.ends(true)? };
        let Loaded { model, tokenizer, .. } = &self.loaded;
        let answer = generate_after(model, tokenizer, (&inputs, &mut self.cache), &limits, sampler, show);
        self.seen = Tokenized { labels: Vec::new(), ..whole };
        self.seen.ids.extend(answer.iter().flat_map(|answer| &answer.tokens));
        // The last token was written, but not read.
        self.seen.ids.truncate(self.cache.tokens());
        Ok(answer?)
    }

    /// The whole conversation as tokens, and what of it the cache does not hold; what the cache holds and the conversation does
    /// not is forgotten.
    fn read(&mut self) -> Result<(Tokenized, Inputs), TrainError> {
        let whole = self.prompt()?;
        let (tokens, context) = (whole.ids.len(), self.loaded.model.sizes().max_position_embeddings);
        if tokens >= context {
            return Err(TrainError::Other(format!(
                "the conversation has {tokens} tokens, and the model's context is {context}: there is no room for an answer; begin anew with \
                 /reset, or say it shorter"
            )));
        }
        let held = self.held(&whole);
        self.cache.cut(held);
        let held = self.cache.tokens();
        let rest = Tokenized {
            ids: whole.ids[held..].to_vec(),
            labels: whole.labels[held..].to_vec(),
            pictures: whole.pictures.iter().filter_map(|picture| picture.behind(held)).collect(),
        };
        let inputs = self.loaded.inputs(&[rest])?;
        Ok((whole, inputs))
    }

    /// How many tokens of the cache the conversation begins with; at least one is left to be read.
    fn held(&self, whole: &Tokenized) -> usize {
        let model = &self.loaded.model;
        if model.turns_anew(1, model.sizes().max_position_embeddings) {
            return 0;
        }
        let alike = self.seen.ids.iter().zip(&whole.ids).take_while(|(one, other)| one == other).count();
        let held = alike.min(whole.ids.len().saturating_sub(1));
        // The same tokens may stand for another picture, and no cut may go through one.
        let within = |picture: &&Placed| picture.tokens.iter().any(|run| run.start < held);
        let (before, now) = (self.seen.pictures.iter().filter(within), whole.pictures.iter().filter(within));
        if before.eq(now.clone()) && now.clone().all(|picture| picture.is_within(held)) { held } else { 0 }
    }

    fn prompt(&self) -> Result<Tokenized, TrainError> {
        let vision = self.loaded.vision.as_deref();
        let one_turn =
            vision.is_some_and(|vision| matches!(vision.text, PictureText::Run { .. } | PictureText::Before { .. }));
        let mut conversation = Conversation::default();
        let refused = |problem| TrainError::Other(format!("the conversation: {problem}"));
        if let Some(text) = self.system.as_ref().filter(|_| !one_turn) {
            conversation.say("system", text, Vec::new()).map_err(refused)?;
        }
        match self.turns.split_last() {
            // It reads one question: the last, about the last picture.
            Some((last, before)) if one_turn => {
                let shown = std::iter::once(last).chain(before.iter().rev()).find(|turn| !turn.pictures.is_empty());
                let pictures = shown.map_or_else(Vec::new, |turn| turn.pictures.clone());
                conversation.say(last.role, &last.text, pictures).map_err(refused)?;
            }
            _ => {
                for turn in &self.turns {
                    conversation.say(turn.role, &turn.text, turn.pictures.clone()).map_err(refused)?;
                }
            }
        }
        prompt(&conversation, &self.loaded.encoder(), vision, &Place::named("the conversation")).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use grades_models::sampling::SamplingOptions;

    use super::*;
    use crate::config::{ImageBackend, Precision};
    use crate::loaded::Loading;

    fn open(name: &str) -> Chat {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision").join(name);
        let options = Loading {
            adapter: None,
            fold_adapter: false,
            load_in_4bit: false,
            image_backend: ImageBackend::Auto,
            precision: Precision::F32,
        };
        Chat::new(Loaded::open(&folder, options).unwrap())
    }

    fn picture(name: &str) -> Vec<Picture> {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision/images");
        vec![Picture::File(images.join(name).into())]
    }

    fn say(chat: &mut Chat, text: &str, pictures: Vec<Picture>) -> Result<Generated, TrainError> {
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        chat.say(text, pictures, 6, &mut sampler, |_| ControlFlow::Continue(()))
    }

    /// Logits behind the cache, and those of a pass over the whole conversation.
    fn logits_of(chat: &mut Chat, text: &str, pictures: Vec<Picture>) -> (usize, Vec<f32>, Vec<f32>) {
        chat.turns.push(Turn { role: "user", text: text.to_owned(), pictures });
        let (whole, inputs) = chat.read().unwrap();
        let held = chat.cache.tokens();
        assert_eq!(held + inputs.ids.len(), whole.ids.len());
        let found = chat.loaded.model.logits_after(&inputs, &mut chat.cache).to_host().into_owned();
        let all = chat.loaded.inputs(&[whole]).unwrap();
        let expected = chat.loaded.model.logits_after(&all, &mut KvCache::default()).to_host().into_owned();
        (held, found, expected)
    }

    #[test]
    fn a_later_turn_has_the_logits_of_the_whole_conversation() {
        for name in ["nanovlm_split", "qwen2_5_vl_rows"] {
            for later in [Vec::new(), picture("small.png")] {
                let mut chat = open(name);
                let answer = say(&mut chat, "what is in the picture?", picture("wide.png")).unwrap();
                // What was read of the answer is not the prompt's; a last token that ends nothing was not read.
                let asked = chat.cache.tokens() + usize::from(!answer.finished) - answer.tokens.len();
                let (held, found, expected) = logits_of(&mut chat, "and why?", later.clone());
                let largest = expected.iter().fold(0.0_f32, |largest, one| largest.max(one.abs()));
                let apart = found.iter().zip(&expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
                assert!(apart < 1e-5 * largest, "{name}: {apart} of {largest}");
                // nanoVLM has all pictures first, so with one more it reads nearly everything again.
                let again = name == "nanovlm_split" && !later.is_empty();
                assert!(if again { held < asked } else { held >= asked }, "{name}: {held} of {asked}");
            }
        }
    }

    #[test]
    fn what_was_said_can_be_forgotten() {
        let mut chat = open("qwen2_5_vl_rows");
        let first = say(&mut chat, "which letter comes after b?", Vec::new()).unwrap();
        let second = say(&mut chat, "and after c?", Vec::new()).unwrap();
        assert_eq!(chat.said().map(|said| said.role).collect::<Vec<_>>(), ["user", "assistant", "user", "assistant"]);
        chat.reset();
        assert_eq!(say(&mut chat, "which letter comes after b?", Vec::new()).unwrap(), first);
        assert_eq!(say(&mut chat, "and after c?", Vec::new()).unwrap(), second);
        chat.reset();
        chat.set_system("a helpful assistant of few words.");
        say(&mut chat, "which letter comes after b?", Vec::new()).unwrap();
        assert_eq!(chat.said().next().unwrap().text, "a helpful assistant of few words.");
        // What cannot be read leaves nothing behind.
        let count = chat.said().count();
        assert!(say(&mut chat, "what?", vec![Picture::Bytes([1].as_slice().into())]).is_err());
        assert_eq!(chat.said().count(), count);
        say(&mut chat, "and now?", Vec::new()).unwrap();
    }

    #[test]
    fn an_answer_that_is_broken_off_is_the_beginning_of_the_whole_one() {
        let mut chat = open("qwen2_5_vl_rows");
        let whole = say(&mut chat, "which letter comes after b?", Vec::new()).unwrap();
        assert!(whole.tokens.len() > 3);
        chat.reset();
        let mut left = 3;
        let show = |_: &str| {
            left -= 1;
            if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        let broken = chat.say("which letter comes after b?", Vec::new(), 6, &mut sampler, show).unwrap();
        assert_eq!((&broken.tokens[..], broken.finished), (&whole.tokens[..3], false));
        assert_eq!(chat.said().last().unwrap().text, broken.text.trim());
        // The next turn is that of a conversation in which no more was said.
        let (_, found, expected) = logits_of(&mut chat, "and why?", Vec::new());
        let largest = expected.iter().fold(0.0_f32, |largest, one| largest.max(one.abs()));
        let apart = found.iter().zip(&expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5 * largest, "{apart} of {largest}");
    }

    #[test]
    fn a_conversation_longer_than_the_context_is_refused_until_it_is_reset() {
        let mut chat = open("qwen2_5_vl_rows");
        let context = chat.loaded.model.sizes().max_position_embeddings;
        let error = say(&mut chat, &"why? ".repeat(context), Vec::new()).unwrap_err().to_string();
        assert!(error.contains("/reset") && error.contains(&context.to_string()), "{error}");
        assert_eq!(chat.said().count(), 0);
        // Turn by turn it fills.
        let words = "why? ".repeat(context / 40);
        let full = (0..context).find_map(|_| say(&mut chat, &words, Vec::new()).err()).unwrap();
        assert!(full.to_string().contains("/reset"), "{full}");
        let said = chat.said().count();
        assert!(said > 2 && said.is_multiple_of(2), "{said}");
        chat.reset();
        say(&mut chat, &words, Vec::new()).unwrap();
    }
}
