//! Log-likelihoods of a batch in which beginnings are shared, against those of each choice by itself.

use std::sync::Arc;

use grades_models::source::LoadOptions;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, Inputs, registry};
use grades_tensor::{Dtype, Label, Layout, device};
use grades_train::encoder::Encoder;
use grades_train::eval::{Question, ScoreOptions, Task, score};

use crate::runs::exclusive;
use crate::tiny_checkpoint;

fn question(contexts: &[&str], choices: &[&str]) -> Question {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Question { contexts: owned(contexts), choices: owned(choices), target: 0 }
}

fn questions() -> Vec<Question> {
    vec![
        // Branches within the answers, and one within another.
        question(
            &["Question: where do boats lie?\nAnswer:"],
            &["in a river", "in a garden", "on a roof", "in a rivulet"],
        ),
        // One answer is the beginning of another, and two are the same.
        question(&["Question: where do boats lie?\nAnswer:"], &["in", "in a", "in a", "i"]),
        // Single tokens: the tokenizer has one a letter, so nothing stands before the only letter but the space.
        question(&["Question: where do kites fly?\nAnswer: "], &["a", "b", "c"]),
        question(&["Question: where do kites fly?\nAnswer:"], &["a"]),
        // The same end behind contexts that differ, one of which is the beginning of the other.
        question(&["the bell rang since the fox", "the bell rang since the kite"], &["was red.", "was red."]),
        question(&["the bell", "the bell was"], &["was red", "red"]),
        // Nothing in common, and no context.
        question(&["x"], &["y", "z z z"]),
        question(&[""], &["the bell", "a kite"]),
    ]
}

/// The log-likelihood of a continuation as lm-evaluation-harness defines it, in a pass of its own.
fn alone(model: &Decoder, tokenizer: &Tokenizer, context: &str, choice: &str) -> f64 {
    let (kept, all) = (context.trim_end(), format!("{context} {choice}"));
    let mut before = tokenizer.encode(kept, true).unwrap();
    let mut ids = tokenizer.encode(&all, true).unwrap();
    if context.is_empty() {
        before = vec![tokenizer.bos_id().unwrap()];
        ids.insert(0, before[0]);
    }
    let labels: Vec<Label> = (before.len()..ids.len()).map(|at| Label { row: at as u32 - 1, token: ids[at] }).collect();
    ids.pop();
    let layout = Layout::packed(std::slice::from_ref(&(0..ids.len())));
    let scores = model.log_likelihoods(&Inputs::tokens(Arc::new(ids), Arc::new(layout)), &labels);
    scores.to_host().iter().map(|&score| f64::from(score)).sum()
}

#[test]
fn sharing_changes_no_likelihood() {
    let _counters = exclusive();
    let folder = tempfile::tempdir().unwrap();
    tiny_checkpoint::write(folder.path(), "llama");
    let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut model = registry::open(&checkpoint, LoadOptions::new(device("cpu").unwrap())).unwrap();
    let questions = questions();
    for (precision, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 1e-2)] {
        model.set_dtype(precision);
        let mut fewest = usize::MAX;
        for batch_tokens in [1, 150, 4096] {
            let options = ScoreOptions { max_length: 128, batch_tokens };
            let task = Task::named("piqa").unwrap();
            let encoder = Encoder::new(&tokenizer, tokenizer.vocab_size());
            let (result, scores) = score(task, &questions, &encoder, &mut model, options, &mut |_| ()).unwrap();
            assert!(result.tokens < fewest, "{} tokens in batches of {batch_tokens}", result.tokens);
            fewest = result.tokens;
            for (question, score) in questions.iter().zip(&scores) {
                for (index, choice) in question.choices.iter().enumerate() {
                    let expected = alone(&model, &tokenizer, question.context(index), choice);
                    let found = score.loglikelihoods[index];
                    assert!(
                        (found - expected).abs() <= tolerance * expected.abs(),
                        "`{choice}` of question {} in batches of {batch_tokens}, {precision:?}: {found} and {expected}",
                        score.index
                    );
                }
            }
            let [_, twice, ..] = &scores[..] else { panic!("there are questions") };
            assert_eq!(twice.loglikelihoods[1], twice.loglikelihoods[2]);
        }
    }
}
