//! The measured training step from outside.

#[cfg(test)]
mod step;
