//! The blocks that model families are put together from. Each says which linear layers it has, and runs forward, recorded
//! or not.

mod adapter;
mod attention;
mod experts;
mod layer;
mod mlp;
mod norm;
mod projection;
mod rope;
mod run;

pub(crate) use adapter::{Dora, Pair};
pub use attention::KeysAndValues;
pub(crate) use attention::{Attention, Heads};
pub(crate) use experts::Experts;
pub(crate) use layer::{FeedForward, Layer};
pub(crate) use mlp::Mlp;
pub(crate) use norm::Norm;
pub(crate) use projection::{Part, Projection};
pub use rope::{Rope, RopeConfig, RopeScaling};
pub use run::DropoutKey;
pub(crate) use run::{Adapting, Run};
