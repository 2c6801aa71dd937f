//! Matrix products in f32, of operands in f32 or in any form that [`Rows`](super::rows::Rows) decodes.

mod dots;
mod few_rows;
mod kernel;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod tile;
mod vector;
mod weight_gradient;

/// Panels that a task packs at once, unless others were chosen.
pub(super) fn panels() -> usize {
    kernel::Kernel::best().task_panels
}

pub(crate) use few_rows::{MAX_ROWS as MAX_FEW_ROWS, few_rows};
pub(crate) use product::{Left, Right, product};
pub(crate) use tile::Target;
pub(crate) use weight_gradient::{Piece, transposed_product};
