//! What is wrong with data that points outside of a table.

/// An index in the data that lies outside the table it points into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "row {row} has {what} {value}, outside 0..{limit}: check that tokenizer, sequence length and model fit together"
)]
pub struct OutOfRange {
    /// What the index is: `"token id"`, `"label"` or `"position"`.
    pub what: &'static str,
    /// The row that has it.
    pub row: usize,
    /// The index itself.
    pub value: i64,
    /// The size of the table.
    pub limit: usize,
}
