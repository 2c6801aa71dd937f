//! Parity with the reference implementation.

#[cfg(test)]
mod families;
