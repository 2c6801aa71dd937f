//! Every reader with damaged files: it may refuse them, and nothing else.

#![expect(clippy::disallowed_methods, reason = "tests make the files that they need")]

#[cfg(test)]
mod limit;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod sizes;
