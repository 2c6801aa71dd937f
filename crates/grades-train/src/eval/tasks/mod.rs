//! One file a benchmark (both parts of ARC share theirs), one line here.

use super::task::{Question, Task, from_one, on_hub, position_of};
use crate::data::{DataError, Record};

mod arc;
mod boolq;
mod hellaswag;
mod multiple_choice;
mod openbookqa;
mod piqa;
mod social_i_qa;
mod winogrande;

pub(super) const TASKS: &[&Task] = &[
    &arc::CHALLENGE,
    &arc::EASY,
    &boolq::TASK,
    &hellaswag::TASK,
    &multiple_choice::TASK,
    &openbookqa::TASK,
    &piqa::TASK,
    &social_i_qa::TASK,
    &winogrande::TASK,
];

type Result<T> = std::result::Result<T, DataError>;
