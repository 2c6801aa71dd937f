//! Data, training, evaluation, reports.
