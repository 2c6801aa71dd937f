//! A model: a stack of layers between an embedding and a head, what reads pictures, its passes, and what becomes of it.

mod arrangement;
mod cache;
mod decoder;
mod encoder;
mod inputs;
mod noise;
mod outline;
mod pass;
mod places;
mod prefix;
mod reading;
mod stack;
mod tied;
mod vision;
mod weights;

pub(crate) use arrangement::Arrangement;
pub use cache::{KvCache, KvCaches};
pub use decoder::Decoder;
pub(crate) use decoder::Wiring;
pub use encoder::Encoder;
pub use inputs::{Inputs, Replaced, Rows};
pub use outline::{Forms, Outline, TowerSize};
pub use pass::{Pass, PassOptions, ScoredPass};
pub use stack::Prefix;
pub(crate) use stack::Stack;
pub(crate) use tied::HEAD;
pub use tied::Untied;
pub use vision::{Pictures, Vision};
pub use weights::Weight;
