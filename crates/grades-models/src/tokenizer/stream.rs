//! Decoding ids one by one.

use super::Tokenizer;

/// Gives out text as soon as it is certain; a character whose bytes are spread over several tokens comes whole.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The ids whose text may still change, after the ones that give them their context.
    ids: Vec<u32>,
    /// How many of `ids` are context: their text has been given out.
    context: usize,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), context: 0 }
    }

    /// Takes the next id; returns the text that became certain, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        let text = self.pending();
        // An incomplete character decodes as a replacement character; the next tokens complete it.
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return String::new();
        }
        // The next token may decode differently than alone (its space), so the last ones stay as its context.
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        text
    }

    /// What is left at the end; broken UTF-8 becomes `�`.
    #[must_use]
    pub fn finish(&self) -> String {
        self.pending()
    }

    /// The text behind the context's.
    fn pending(&self) -> String {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, self.skip_special);
        let (context, all) = (decode(&self.ids[..self.context]), decode(&self.ids));
        match all.strip_prefix(context.as_str()) {
            Some(text) => text.to_owned(),
            // A run of single-byte tokens decodes as a whole: an incomplete one spoils the characters before it.
            None => decode(&self.ids[self.context..]),
        }
    }
}
