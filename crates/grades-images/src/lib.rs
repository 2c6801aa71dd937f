//! Pictures as the towers of vision-language models want them, number for number as the reference processors make them.
//!
//! A compressed picture becomes a [`Picture`] in red, green and blue ([`decode()`]), which a [`Processor`] resizes, cuts and
//! normalises into [`Pixels`]. What a model's sequence needs before that, how many tiles or patches there will be, follows
//! from the size alone ([`dimensions`], [`Processor::layout`]).

mod decode;
mod picture;
mod process;
mod resize;
mod thumbnail;

pub use decode::{DecodeError, Limits, decode, dimensions};
pub use picture::{Alpha, Picture};
pub use process::{
    ConfigError, Layout, Patches, Pixels, ProcessError, Processor, Rule, Tiles, TilesOptions, Values, dynamic_resize,
    smart_resize,
};
pub use resize::{Backend, Filter, resize, resize_values};
pub use thumbnail::thumbnail;
