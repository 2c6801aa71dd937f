//! From data sets to batches of tokens: source (files, or the Hub) → format → tokens → packing → batches.

pub mod batch;
pub mod conversation;
pub mod encode;
pub mod error;
pub(crate) mod files;
pub mod format;
mod json;
pub mod packing;
mod parquet;
mod parts;
pub mod picture;
pub mod placed;
pub mod record;
pub mod sample;
pub mod samples;
pub mod source;
pub mod split;
pub mod template;
pub mod tokens;
pub mod vision;
mod webdataset;

pub use batch::{Batch, Loader, LoaderOptions};
pub use encode::{Around, Encode, Encoded, Tokenized};
pub use error::DataError;
pub use format::{DatasetSpec, Format};
pub use parts::MARKER;
pub use picture::{Picture, PictureColumns};
pub use placed::Placed;
pub use record::Record;
pub use samples::{ExcessLength, Samples, TokenOptions, load};
pub use source::Source;
pub use tokens::prompt;
pub use vision::Vision;
