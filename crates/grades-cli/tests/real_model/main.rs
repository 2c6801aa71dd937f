//! The program on a real model.

#[cfg(test)]
mod smollm2;
