use std::collections::HashSet;

use grades_models::template::{Given, Message, Rendered};

use super::*;
use crate::data::encode::{Around, EncodeError, Encoded};
use crate::eval::request::{Sequence, beginning};

/// One token a word with the space before it, which a final space has no part in; white space alone is a token.
/// 0 begins a text.
struct Words;

impl Encode for Words {
    fn encode(&self, text: &str, around: Around) -> Result<Encoded, EncodeError> {
        assert_ne!(around, Around::Sample);
        let mut ids: Vec<u32> = (around == Around::Beginning).then_some(0).into_iter().collect();
        let mut word = String::new();
        for letter in text.chars() {
            if letter == ' ' && !word.is_empty() {
                ids.push(token(&word));
                word.clear();
            }
            word.push(letter);
        }
        if !word.is_empty() {
            ids.push(token(&word));
        }
        Ok(Encoded { ids, ranges: Vec::new() })
    }

    fn bos_id(&self) -> Option<u32> {
        Some(0)
    }

    fn eos_id(&self) -> Option<u32> {
        Some(999)
    }

    fn render(&self, _: &[Message], _: &Given, _: bool) -> Result<Rendered, EncodeError> {
        Err("no template".into())
    }
}

fn sequence(context: &str, choice: &str, max_length: usize) -> Result<Sequence, String> {
    let beginning = beginning(context, &Words)?;
    crate::eval::request::sequence(context, &beginning, choice, &Words, max_length)
}

/// 1 + the place in the alphabet of the word's letters, in base 30; a leading space counts as 29.
fn token(word: &str) -> u32 {
    word.chars().fold(0, |sum, letter| (sum * 30 + if letter == ' ' { 29 } else { letter as u32 % 29 + 1 }) % 100_003)
}

/// A model whose log-likelihood depends on every token that is seen and on nothing else.
#[derive(Default)]
struct Hashing {
    batches: Vec<usize>,
}

fn hashed(ids: &[u32], token: u32) -> f32 {
    let sum = ids.iter().fold(7_u64, |sum, id| (sum * 31 + u64::from(*id)) % 1009);
    -(((sum * 17 + u64::from(token)) % 1009) as f32) / 100.0
}

impl LogLikelihood for Hashing {
    fn log_likelihoods(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        self.batches.push(batch.ids.len());
        let own: Vec<u32> = (0..batch.ids.len() as u32).collect();
        let rows = batch.layout.key_rows.as_deref().unwrap_or(&own);
        let mut seen = Vec::new();
        for segment in &batch.layout.segments {
            let keys: Vec<u32> = rows[segment.key.clone()].iter().map(|&row| batch.ids[row as usize]).collect();
            let past = segment.key.len() - segment.query.len();
            for (place, at) in segment.query.clone().enumerate() {
                assert_eq!(batch.layout.positions[at] as usize, past + place);
                assert_eq!(keys[past + place], batch.ids[at]);
                seen.push(keys[..=past + place].to_vec());
            }
        }
        assert_eq!(seen.len(), batch.ids.len());
        // Nothing is read twice, nor asked for twice.
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
        assert!(batch.labels.is_sorted_by(|one, next| one < next));
        Ok(batch.labels.iter().map(|label| hashed(&seen[label.row as usize], label.token)).collect())
    }
}

const OPTIONS: ScoreOptions = ScoreOptions { max_length: 100, batch_tokens: 40 };

fn questions() -> Vec<Question> {
    let words = ["tin", "red clay", "a long walk home", "oak", "we sing"];
    (0..23)
        .map(|index| Question {
            contexts: vec![format!("Question: {} {}?\nAnswer:", words[index % 5], "so ".repeat(index % 4))],
            // Some begin alike.
            choices: (0..2 + index % 3)
                .map(|choice| format!("{}{}", ["", "on and "][index % 2], words[(index + choice) % 5]))
                .collect(),
            target: index % 2,
        })
        .collect()
}

fn run(questions: &[Question], options: ScoreOptions) -> (TaskScore, Vec<Answer>, Vec<usize>) {
    let mut model = Hashing::default();
    let mut done = Vec::new();
    let task = Task::named("piqa").unwrap();
    let (score, samples) = score(task, questions, &Words, &mut model, options, &mut |count| done.push(count)).unwrap();
    assert_eq!(
        done.last().copied().unwrap_or(0),
        questions.iter().map(|question| question.choices.len()).sum::<usize>()
    );
    (score, samples, model.batches)
}

#[test]
fn batches_do_not_change_the_results() {
    let questions = questions();
    let (one, samples, batches) = run(&questions, ScoreOptions { batch_tokens: 1, ..OPTIONS });
    assert_eq!(batches.len(), questions.len());
    assert!(batches.is_sorted_by(|a, b| a >= b));
    for batch_tokens in [40, 1000, usize::MAX] {
        let (score, packed, batches) = run(&questions, ScoreOptions { batch_tokens, ..OPTIONS });
        assert_eq!((TaskScore { tokens: one.tokens, ..score }, &packed), (one, &samples));
        assert!(batches.iter().all(|tokens| *tokens <= batch_tokens));
        assert_eq!(batches.iter().sum::<usize>(), score.tokens);
        // What questions begin with is shared, too, within a batch.
        assert!(score.tokens < one.tokens);
    }
    // And they are what the model says of each choice alone.
    for (question, sample) in questions.iter().zip(&samples) {
        for (choice, likelihood) in question.choices.iter().zip(&sample.loglikelihoods) {
            let context = Words.encode(&question.contexts[0], Around::Beginning).unwrap().ids;
            let mut ids = context.clone();
            let mut sum = 0.0;
            for id in Words.encode(&format!(" {choice}"), Around::Template).unwrap().ids {
                sum += f64::from(hashed(&ids, id));
                ids.push(id);
            }
            assert_eq!(sum, *likelihood);
        }
    }
}

#[test]
fn spaces_at_the_end_of_a_context_go_to_the_continuation() {
    let ids = |context: &str, choice: &str| {
        let Sequence { ids, context } = sequence(context, choice, 100).unwrap();
        (ids[..context].to_vec(), ids[context..].to_vec())
    };
    assert_eq!(ids("a b", "c"), (vec![0, token("a"), token(" b")], vec![token(" c")]));
    // Two spaces in a row: one is a word of its own, and neither stays with the context.
    assert_eq!(ids("a b ", "c"), (vec![0, token("a"), token(" b")], vec![token(" "), token(" c")]));
    assert_eq!(ids("", "c d"), (vec![0], vec![token(" c"), token(" d")]));
}

#[test]
fn long_questions_lose_their_beginning() {
    let whole = sequence("a b c d e f", "x y", 100).unwrap();
    let cut = sequence("a b c d e f", "x y", 4).unwrap();
    // The model reads d e f x, and y is only asked for.
    assert_eq!(cut.ids, whole.ids[whole.ids.len() - 5..]);
    assert_eq!((cut.context, cut.ids[3..].to_vec()), (3, vec![token(" x"), token(" y")]));
    assert!(sequence("a", "x y z", 2).unwrap_err().contains("3 tokens"));
    assert_eq!(sequence("a", "x y", 2).unwrap().context, 1);
}

/// The batch of some questions of contexts and choices.
fn batch(questions: &[(&[&str], &[&str])], max_length: usize) -> Batch {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let request = |&(contexts, choices): &(&[&str], &[&str])| {
        let question = Question { contexts: owned(contexts), choices: owned(choices), target: 0 };
        Request::new(&question, &Words, max_length).unwrap()
    };
    let requests: Vec<Request> = questions.iter().map(request).collect();
    let mut batches: Vec<Batch> = batches(&requests, usize::MAX).collect();
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

#[test]
fn what_choices_begin_with_is_read_once() {
    // Tokens that are read, and labels.
    let counts = |contexts: &[&str], choices: &[&str], max_length| {
        let batch = batch(&[(contexts, choices)], max_length);
        (batch.ids.len(), batch.labels.len())
    };
    // A token for the beginning, then a, b: after b come c and e, after c comes d.
    assert_eq!(counts(&["a b"], &["c d", "e"], 100), (4, 3));
    // The choices begin alike: c is read and asked for once, d and e are only asked for, both after c.
    assert_eq!(counts(&["a b"], &["c d", "c e"], 100), (4, 3));
    // One is a prefix of the others, which are the same.
    assert_eq!(counts(&["a b"], &["c", "c d", "c d"], 100), (4, 2));
    assert_eq!(counts(&["a b"], &["c d", "c d"], 100), (4, 2));
    // Single tokens.
    assert_eq!(counts(&["a b"], &["c", "d"], 100), (3, 2));
    // A branch within a branch.
    assert_eq!(counts(&["a b"], &["c d e", "c d f", "c g h", "i"], 100), (6, 7));
    // WinoGrande: contexts that differ in their last word.
    assert_eq!(counts(&["a b x", "a b y"], &["c d", "c d"], 100), (7, 4));
    // Where the context of one ends, another's goes on: what is read alike need not be scored alike.
    assert_eq!(counts(&["a", "a b"], &["b c", "c"], 100), (3, 2));
    // Choices that are cut at different places share nothing.
    assert_eq!(counts(&["a b"], &["c d", "e"], 3), (6, 3));
    assert_eq!(counts(&["a b"], &["c"], 100), (3, 1));
}

#[test]
fn questions_of_a_batch_share_what_they_begin_with() {
    let (one, two, three) =
        ((&["a b c"][..], &["d", "e f"][..]), (&["a b"][..], &["g", "c d"][..]), (&["h"][..], &["y", "z"][..]));
    let batch = batch(&[one, two, three], 100);
    // The beginning, a, b, c and e; nothing beyond that of the second; h of the third.
    assert_eq!(batch.ids, [0, token("a"), token(" b"), token(" c"), token(" e"), token("h")]);
    // d and e after c, f after e; g and c after b, and d after c again; y and z after h.
    assert_eq!(batch.labels.len(), 3 + 2 + 2);
    let label = |question, number| {
        let choice = batch.choices.iter().find(|choice| (choice.question, choice.number) == (question, number));
        choice.unwrap().labels.iter().map(|&label| batch.labels[label]).map(|l| (l.row, l.token)).collect::<Vec<_>>()
    };
    assert_eq!(label(0, 1), [(3, token(" e")), (4, token(" f"))]);
    assert_eq!(label(1, 1), [(2, token(" c")), (3, token(" d"))]);
    assert_eq!(label(0, 0), label(1, 1)[1..]);
    assert_eq!(label(2, 0), [(5, token(" y"))]);
}

#[test]
fn a_batch_repeats_no_more_keys_than_it_may() {
    let question = |number: usize| Question {
        contexts: vec![format!("{} q{number}", "a ".repeat(30).trim_end())],
        choices: (0..4).map(|choice| format!("c{choice} d")).collect(),
        target: 0,
    };
    let questions: Vec<Question> = (0..40).map(question).collect();
    let requests: Vec<Request> = questions.iter().map(|q| Request::new(q, &Words, 100).unwrap()).collect();
    let found: Vec<Batch> = batches(&requests, 100).collect();
    // By tokens alone 13 would go into one.
    assert_eq!(found.iter().map(|batch| batch.choices.len()).max(), Some(24));
    for batch in found {
        assert!(batch.layout.key_rows.unwrap().len() <= 800 && batch.ids.len() <= 100);
    }
}

#[test]
fn each_choice_may_have_its_own_context() {
    let question = |contexts: &[&str]| Question {
        contexts: contexts.iter().map(|context| (*context).to_owned()).collect(),
        choices: vec!["was big.".to_owned(); 2],
        target: 0,
    };
    let (_, both, _) = run(&[question(&["since the bag", "since the box"])], OPTIONS);
    let (_, bag, _) = run(&[question(&["since the bag"])], OPTIONS);
    assert_eq!(both[0].loglikelihoods[0], bag[0].loglikelihoods[0]);
    assert_ne!(both[0].loglikelihoods[0], both[0].loglikelihoods[1]);
}

#[test]
fn accuracies_follow_from_likelihoods() {
    let task = Task::named("piqa").unwrap();
    let question = |target| Question {
        contexts: vec![String::new()],
        choices: ["né", "naive", "no"].map(str::to_owned).to_vec(),
        target,
    };
    // By character −2/2, −3.5/5, −1.5/2: the second. By byte −2/3, −3.5/5, −1.5/2: the first.
    let judged = |target| judge(task, 4, &question(target), vec![-2.0, -3.5, -1.5]);
    assert_eq!(
        (0..3).map(|target| (judged(target).acc, judged(target).acc_norm)).collect::<Vec<_>>(),
        [(0, 0), (0, 1), (1, 0)]
    );
    assert_eq!(argmax(&[-1.0, -0.5, -0.5]), Some(1));
    assert_eq!(argmax(&[]), None);

    let scores: Vec<Answer> = [1, 1, 0, 1].map(|target| Answer { acc: target, ..judged(1) }).to_vec();
    let score = summary(&scores, 7);
    assert_eq!((score.acc, score.acc_norm, score.n, score.tokens), (0.75, 1.0, 4, 7));
    // Deviation 0.5 of the sample [1, 1, 0, 1], over √4.
    assert!((score.acc_stderr.unwrap() - 0.25).abs() < 1e-15);
    assert_eq!(score.acc_norm_stderr, Some(0.0));
    assert_eq!(summary(&scores[..1], 0).acc_stderr, None);
    assert_eq!(summary(&[], 0).acc, 0.0);
}

#[test]
fn records_have_the_fields_that_are_promised() {
    let (score, samples, _) = run(&questions()[..1], OPTIONS);
    let line = serde_json::to_value(&samples[0]).unwrap();
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["task", "index", "loglikelihoods", "target", "acc", "acc_norm"]);
    let keys: Vec<String> = serde_json::to_value(score).unwrap().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["acc", "acc_norm", "acc_stderr", "acc_norm_stderr", "n", "tokens"]);
}

struct Broken(Vec<f32>);

impl LogLikelihood for Broken {
    fn log_likelihoods(&mut self, _: &Batch) -> Result<Vec<f32>, ModelError> {
        if self.0.is_empty() { Err("out of memory".into()) } else { Ok(self.0.clone()) }
    }
}

#[test]
fn a_broken_model_is_an_error() {
    let question =
        Question { contexts: vec!["a".to_owned()], choices: vec!["b".to_owned(), "c".to_owned()], target: 0 };
    let with = |values: Vec<f32>| {
        let task = Task::named("piqa").unwrap();
        let result = score(task, std::slice::from_ref(&question), &Words, &mut Broken(values), OPTIONS, &mut |_| ());
        result.unwrap_err().to_string()
    };
    assert!(with(vec![]).contains("out of memory"));
    assert!(with(vec![-1.0]).contains("1 log-likelihoods for 2 labels"));
    let error = with(vec![-1.0, f32::NAN]);
    assert!(error.contains("piqa, question 0") && error.contains("NaN"), "{error}");
}
