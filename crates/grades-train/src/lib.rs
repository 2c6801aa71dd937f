//! Data, training, evaluation, comparisons.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make the files that they need"))]

pub mod bench;
pub mod blocks;
pub mod card;
pub mod chat;
pub mod compare;
pub mod config;
pub mod data;
pub mod encoder;
pub mod eval;
pub mod hub;
pub mod loaded;
pub mod quickstart;
mod random;
pub mod schedule;
pub mod serve;
pub mod significance;
pub mod train;
