//! Parity with the reference implementation.

#![expect(clippy::disallowed_methods, reason = "tests make the files that they need")]

#[cfg(test)]
mod adapters;
#[cfg(test)]
mod branches;
#[cfg(test)]
mod cache;
#[cfg(test)]
mod families;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod half;
#[cfg(test)]
mod packed;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod saved;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod towers;
