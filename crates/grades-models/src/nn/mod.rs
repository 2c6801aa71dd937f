//! The blocks that model families are put together from. Each says which linear layers it has, and runs forward, recorded
//! or not.

mod adapter;
mod attention;
mod experts;
mod layer;
mod mlp;
mod norm;
mod patches;
mod projection;
mod projector;
mod rope;
mod run;

pub(crate) use adapter::{Dora, Pair};
pub use attention::KeysAndValues;
pub(crate) use attention::{Attention, Heads};
pub(crate) use experts::Experts;
pub(crate) use layer::{FeedForward, Layer, Out};
pub(crate) use mlp::Mlp;
pub(crate) use norm::Norm;
pub use patches::Grid;
pub(crate) use patches::{PatchEmbedding, Positions};
pub(crate) use projection::{Part, Projection};
pub(crate) use projector::Projector;
pub use rope::{Rope, RopeConfig, RopeScaling};
pub use run::DropoutKey;
pub(crate) use run::{Adapting, Run};
