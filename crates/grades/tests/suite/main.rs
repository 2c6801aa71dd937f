//! The method from outside: hand-made traces, the reference fixtures, and properties.

#[cfg(test)]
mod auto;
#[cfg(test)]
mod config;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod monitor;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod quadratic;
#[cfg(test)]
mod recorded;
