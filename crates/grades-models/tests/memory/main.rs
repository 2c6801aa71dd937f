//! Memory of a process while it loads a model.

#[cfg(test)]
mod loading;
