//! The parts that model families share; a family only says how they are wired.

mod decoder;
mod lora;
mod projection;
mod rope;

pub use decoder::{Decoder, DecoderConfig, KvCache, Pass, PassOptions, Prefix, Tokens, Untied};
pub use lora::{Draw, LoraConfig};
pub use rope::{Rope, RopeScaling};
