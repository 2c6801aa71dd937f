//! A model: a stack of layers between an embedding and a head, its passes, and what becomes of it.

mod decoder;
mod inputs;
mod noise;
mod outline;
mod pass;
mod prefix;
mod stack;
mod tied;

pub(crate) use decoder::Wiring;
pub use decoder::{Decoder, KvCache};
pub use inputs::{Inputs, Prefix, Replaced};
pub use outline::Outline;
pub use pass::{Pass, PassOptions};
pub(crate) use stack::Stack;
pub(crate) use tied::HEAD;
pub use tied::Untied;
