//! Data, training, evaluation, reports.

pub mod config;
pub mod data;
pub mod eval;
pub mod schedule;
