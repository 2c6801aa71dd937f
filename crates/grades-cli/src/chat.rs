//! `grades chat`.

use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use grades_models::sampling::Sampler;
use grades_train::chat::Chat;
use grades_train::config::{ImageBackend, Precision};
use grades_train::data::Picture;
use grades_train::loaded::{Loaded, Loading};
use grades_train::train::Interrupt;
use serde_json::{Value, json};

use crate::draws::Draws;
use crate::output;
use crate::parts::Parts;
use crate::signals;

/// Talk with a model.
///
/// Each line of standard input is a message; the answer is written as it comes. What was said is kept, with its keys and
/// values, so that a turn costs what is new in it. Lines that begin with a slash are for the program:
///
///   /image FILE    show a picture with the next message (a model that reads pictures)
///   /system TEXT   set the system's message
///   /reset         forget what was said
///   /save FILE     write the conversation as a row that `type: messages` trains on
///   /quit          end
///
/// Ctrl-C ends an answer that is being written, of which the conversation keeps what is there; at the prompt it ends the program.
///
/// Example: grades chat runs/first
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
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
    /// Whose resize pictures go through: auto (what the model's processor says), pillow or torchvision. Give what it was trained with.
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    image_backend: ImageBackend,
    /// The system's message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    #[command(flatten)]
    draws: Draws,
    /// Numbers of the matrix products: auto (bf16 where the processor has them), f32 or bf16.
    #[arg(long, default_value = "f32")]
    precision: Precision,
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Message(&'a str),
    Image(&'a str),
    System(&'a str),
    Reset,
    Save(&'a str),
    Quit,
    Nothing,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Self::Nothing } else { Self::Message(line) };
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "image" if !rest.is_empty() => Self::Image(rest),
            "system" => Self::System(rest),
            "reset" => Self::Reset,
            "save" if !rest.is_empty() => Self::Save(rest),
            "quit" | "exit" => Self::Quit,
            _ => Self::Unknown(line),
        }
    }
}

impl Args {
    pub(crate) fn run(self, json: bool, interrupt: &Interrupt) -> anyhow::Result<()> {
        let mut sampler = self.draws.sampler()?;
        let parts = Parts::of(&self.source, self.base.as_deref())?;
        let options = Loading {
            adapter: parts.adapter.as_deref(),
            fold_adapter: true,
            load_in_4bit: self.load_in_4bit,
            image_backend: self.image_backend,
            precision: self.precision,
        };
        let mut chat = Chat::new(Loaded::open(&parts.model, options)?);
        chat.set_system(self.system.as_deref().unwrap_or_default());
        let (input, mut line, mut pictures) = (io::stdin(), String::new(), Vec::new());
        loop {
            if input.is_terminal() {
                output::log_piece("> ");
            }
            line.clear();
            if input.lock().read_line(&mut line).context("standard input cannot be read")? == 0 {
                break;
            }
            if Line::of(&line) == Line::Quit {
                break;
            }
            let show = |piece: &str| {
                if !json {
                    output::print_piece(piece);
                }
                if interrupt.heard().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            // Only an answer is worth to be ended alone; and who does not type the lines has nobody who would go on after it.
            if input.is_terminal() && matches!(Line::of(&line), Line::Message(_)) {
                interrupt.begin();
            }
            let obeyed = self.obey(&Line::of(&line), &mut chat, &mut pictures, &mut sampler, show);
            interrupt.end();
            match interrupt.take() {
                Some(signal) if !signals::is_ctrl_c(signal) => std::process::exit(signals::status(signal)),
                _ => {}
            }
            match obeyed {
                Ok(()) => {}
                // A mistake in one line ends a conversation only where nobody can correct it.
                Err(error) if input.is_terminal() => output::log(&format!("error: {error:#}")),
                Err(error) => return Err(error),
            }
        }
        if json { output::print_json(&row(&chat)) } else { Ok(()) }
    }

    fn obey(
        &self,
        line: &Line<'_>,
        chat: &mut Chat,
        pictures: &mut Vec<Picture>,
        sampler: &mut Sampler,
        mut show: impl FnMut(&str) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        match *line {
            Line::Nothing | Line::Quit => {}
            Line::Message(text) => {
                chat.say(text, std::mem::take(pictures), self.max_new_tokens, sampler, &mut show)?;
                let _ = show("\n");
            }
            Line::Image(file) => {
                if !chat.reads_pictures() {
                    bail!("{}: the model reads no pictures; talk with a vision-language model", self.source.display());
                }
                // Wherever the conversation will be saved, the picture is there.
                let found = Path::new(file).canonicalize().ok().filter(|path| path.is_file());
                let path = found.with_context(|| format!("{file}: there is no such picture"))?;
                pictures.push(Picture::File(path.into()));
            }
            Line::System(text) => chat.set_system(text),
            Line::Reset => {
                chat.reset();
                pictures.clear();
            }
            Line::Save(file) => grades_fs::create(Path::new(file), format!("{}\n", row(chat)))?,
            Line::Unknown(line) => {
                bail!(
                    "{line}: there is no such command; known are /image FILE, /system TEXT, /reset, /save FILE and /quit"
                )
            }
        }
        Ok(())
    }
}

/// The conversation as a row of `type: messages`.
fn row(chat: &Chat) -> Value {
    let messages: Vec<Value> = chat.said().map(|said| json!({ "role": said.role, "content": said.marked() })).collect();
    let images: Vec<String> = chat.said().flat_map(|said| said.pictures).map(ToString::to_string).collect();
    if images.is_empty() { json!({ "messages": messages }) } else { json!({ "messages": messages, "images": images }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        for (line, wanted) in [
            ("what is it?\n", Line::Message("what is it?")),
            ("  \n", Line::Nothing),
            ("/image my photo.jpg\n", Line::Image("my photo.jpg")),
            ("/image\n", Line::Unknown("/image")),
            ("/system Be brief.\n", Line::System("Be brief.")),
            ("/system\n", Line::System("")),
            ("/save\n", Line::Unknown("/save")),
            ("/save a.jsonl\n", Line::Save("a.jsonl")),
            ("/reset\n", Line::Reset),
            ("/quit\n", Line::Quit),
            ("/what\n", Line::Unknown("/what")),
        ] {
            assert_eq!(Line::of(line), wanted);
        }
    }
}
