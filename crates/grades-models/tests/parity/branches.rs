//! Samples that begin alike, with that beginning computed once, against each by itself.

use std::sync::Arc;

use grades_models::Inputs;
use grades_tensor::{Dtype, Label, Layout};

use crate::fixture::{Bf16Bounds, assert_within, base, find_each, in_f64};

#[test]
fn branches_have_the_log_likelihoods_of_samples() {
    for (family, folder) in find_each(&[
        "gemma3_text",
        "llama",
        "llama3",
        "mistral",
        "mixtral",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    ]) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let tolerance = match dtype {
                Dtype::F32 | Dtype::U8 | Dtype::Packed => 1e-5,
                // The two differ by rounding alone, so by no more than either from the reference.
                Dtype::Bf16 => match Bf16Bounds::read(&folder) {
                    Some(bounds) => bounds.logits,
                    None => continue,
                },
            };
            let mut model = base(&folder, "config.json");
            model.set_dtype(dtype);
            let vocabulary = model.sizes().vocab_size as u32;
            let token = |index: usize| (index as u32 * 37 + 11) % vocabulary;
            // Two trees and two samples by themselves, as lengths behind one another: a branch within a branch, one of a
            // single token, and branchings right at the beginning and at the end of another.
            let branches: [(Option<usize>, usize); 11] = [
                (None, 5),
                (Some(0), 3),
                (Some(1), 1),
                (Some(1), 2),
                (Some(0), 1),
                (Some(0), 7),
                (None, 4),
                (None, 1),
                (Some(7), 1),
                (Some(7), 6),
                (None, 3),
            ];
            let mut ends: Vec<u32> = Vec::new();
            let mut parents = Vec::new();
            for (before, length) in branches {
                let mut parent = before.map(|branch| ends[branch]);
                for _ in 0..length {
                    parents.push(parent);
                    parent = Some(parents.len() as u32 - 1);
                }
                ends.extend(parent);
            }
            let ids: Vec<u32> = (0..parents.len()).map(token).collect();
            let layout = Layout::tree(&parents);
            // One for the end of each sample.
            assert_eq!(layout.segments.len(), 8);
            assert!(layout.key_rows.is_some());
            let tokens = Inputs::tokens(Arc::new(ids.clone()), Arc::new(layout));
            // Some tokens without a label, some with two.
            let asked =
                |row: u32| (0..row % 3).map(move |n| Label { row, token: token(3 * row as usize + n as usize) });
            let labels: Vec<Label> = (0..ids.len() as u32).flat_map(asked).collect();
            let found = model.log_likelihoods(&tokens, &labels).to_host().into_owned();
            let mut expected = Vec::new();
            for row in 0..ids.len() as u32 {
                let mut sample: Vec<u32> = std::iter::successors(Some(row), |&row| parents[row as usize]).collect();
                sample.reverse();
                let sample: Vec<u32> = sample.into_iter().map(|row| ids[row as usize]).collect();
                let last = sample.len() as u32 - 1;
                let layout = Layout::packed(std::slice::from_ref(&(0..sample.len())));
                let tokens = Inputs::tokens(Arc::new(sample), Arc::new(layout));
                for label in asked(row) {
                    let alone = model.log_likelihoods(&tokens, &[Label { row: last, ..label }]);
                    expected.extend(in_f64(&alone.to_host()));
                }
            }
            assert_eq!(model.log_likelihoods(&tokens, &[]).len(), 0);
            assert_within(tolerance, &format!("{family}, {dtype:?}"), &found, &expected);
        }
    }
}
