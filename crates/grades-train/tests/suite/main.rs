//! The trainer from outside: whole runs of a tiny model, and what they leave behind.

#![expect(clippy::disallowed_methods, reason = "tests make the files that they need")]

#[cfg(test)]
mod adapters;
#[cfg(test)]
mod arithmetic;
mod averaging;
#[cfg(test)]
mod best_checkpoints;
#[cfg(test)]
mod checkpointing;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod conversations;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod dropout;
#[cfg(test)]
mod evaluating;
#[cfg(test)]
mod evaluation;
#[cfg(test)]
mod experts;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod folding;
#[cfg(test)]
mod freezing;
#[cfg(test)]
mod from_scratch;
#[cfg(test)]
mod interruptions;
#[cfg(test)]
mod layer_rates;
#[cfg(test)]
mod learning_rates;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod noise;
#[cfg(test)]
mod observations;
#[cfg(test)]
mod optimization;
#[cfg(test)]
mod optimizers;
#[cfg(test)]
mod packed_base;
#[cfg(test)]
mod packing;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod preferences;
#[cfg(test)]
mod prefix_cache;
#[cfg(test)]
mod records;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod resuming;
#[cfg(test)]
mod run_directory;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod tiny_checkpoint;
#[cfg(test)]
mod tiny_run;
#[cfg(test)]
mod unfreezing;
