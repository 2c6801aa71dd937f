//! The processor as a device; what it can do is in the files beside.

/// The processor.
#[derive(Debug)]
pub struct Cpu;

/// The processor.
pub static CPU: Cpu = Cpu;
