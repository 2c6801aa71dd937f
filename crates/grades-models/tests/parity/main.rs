//! Parity with the reference implementation.

#[cfg(test)]
mod adapters;
#[cfg(test)]
mod families;
#[cfg(test)]
mod packed;
