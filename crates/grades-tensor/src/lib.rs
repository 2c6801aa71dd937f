//! Tensors, the devices that compute with them, and the tape of a backward pass.
//!
//! A [`Tensor`] is a matrix in the memory of a [`Device`], which is chosen at run time ([`device`]). [`ops`] are the
//! operations that models are made of, over values of a forward pass ([`Var`]): each computes through the device and
//! records on a [`Tape`] how to go back, if something that trains lies below it. What training does to parameters
//! ([`Training`]) is the device's too, so that the host sees a few numbers a step.

pub mod attention;
pub mod cpu;
mod device;
mod dispatch;
mod dropout;
mod dtype;
mod flops;
mod held;
pub mod ops;
mod reference;
mod spec;
mod tape;
mod tensor;
#[cfg(test)]
mod tests;

pub use attention::{AttentionSpec, Kept, Layout, RopeTable, Segment};
pub use device::{
    Adapters, Blockwise, DEVICES, Device, DeviceRef, Experts, Gain, Layers, Losses, Measure, Memory, Projections,
    SavedAttention, Training, UnknownDevice, Update, device,
};
pub use dispatch::{Dispatch, Group, Routed};
pub use dropout::Dropout;
pub use dtype::Dtype;
pub use flops::executed;
pub use held::{Held, Made, held};
pub use reference::REFERENCE;
pub use spec::{
    Activation, AdamW, AdjustLr, CrossEntropySpec, IGNORE_INDEX, Label, Lion, LossScale, Muon, Sgd, StateMap, Sums,
    labels_of, state_scales,
};
pub use tape::{Backward, Gradients, Leaf, Node, Tape, Var};
pub use tensor::Tensor;
