//! Numbers that are others each time: for names, and for seeds that nobody has given.

use std::hash::{BuildHasher, RandomState};

/// A random number.
pub(crate) fn number() -> u64 {
    // Hashers begin with what the system draws for each process, and each with another state.
    RandomState::new().hash_one(0_u8)
}

/// 32 random digits in hexadecimal.
pub(crate) fn id() -> String {
    format!("{:016x}{:016x}", number(), number())
}
