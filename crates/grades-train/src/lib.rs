//! Data, training, evaluation, reports.

pub mod bench;
pub mod compare;
pub mod config;
pub mod data;
pub mod encoder;
pub mod eval;
pub mod hub;
pub mod quickstart;
pub mod report;
pub mod schedule;
pub mod train;
