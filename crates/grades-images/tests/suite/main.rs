//! Pictures as the reference processors make them, on recorded fixtures.

#![cfg(test)]

mod decoding;
mod fixture;
mod mutated;
mod processing;
