use std::fs;
use std::path::Path;

use grades_models::template::{Given, Message, Rendered};

use super::super::bad_rows::OnBadRow;
use super::super::encode::{Around, EncodeError, Encoded};
use super::super::packing::Packing;
use super::super::samples::ExcessLength;
use super::*;

/// A token a letter.
struct Letters;

impl Encode for Letters {
    fn encode(&self, text: &str, _: Around) -> Result<Encoded, EncodeError> {
        let ids = text.bytes().map(u32::from).collect();
        Ok(Encoded { ids, ranges: (0..text.len()).map(|at| at..at + 1).collect() })
    }

    fn bos_id(&self) -> Option<u32> {
        None
    }

    fn eos_id(&self) -> Option<u32> {
        None
    }

    fn render(&self, _: &[Message], _: &Given, _: bool) -> Result<Rendered, EncodeError> {
        Err("no template".into())
    }
}

/// A set of texts `a00`, `a01`, …, which are followed by so many dots as their number has tens.
fn set(folder: &Path, letter: char, count: usize) -> DatasetSpec {
    let path = folder.join(format!("{letter}.jsonl"));
    let row = |at: usize| format!("{{\"text\": \"{letter}{at:02}{}.\"}}\n", ".".repeat(at / 10));
    fs::write(&path, (0..count).map(row).collect::<String>()).unwrap();
    DatasetSpec { path: path.display().to_string(), kind: "text".to_owned(), ..DatasetSpec::default() }
}

fn options() -> StreamOptions {
    StreamOptions {
        tokens: TokenOptions {
            sequence_len: 12,
            train_on_inputs: false,
            excess_length: ExcessLength::Raise,
            max_samples: None,
            train_on_last_turn_only: false,
            on_bad_row: OnBadRow::Stop,
        },
        loader: LoaderOptions {
            micro_batch_size: 2,
            gradient_accumulation_steps: 1,
            packing: None,
            shuffle: false,
            seed: 3,
        },
        mix_strategy: MixStrategy::Concat,
        shares: None,
        shuffle_buffer: 1,
        packing_buffer: 1,
    }
}

/// The names of the samples of the first steps, each with the number that it has in its batch.
fn names(specs: &[DatasetSpec], options: &StreamOptions, steps: usize) -> Vec<(String, usize)> {
    let mut stream = Steps::new(specs, &Letters, options).unwrap();
    let batches = (0..steps).flat_map(|_| stream.step().unwrap().0);
    let of = |batch: Batch| -> Vec<(String, usize)> {
        let name =
            |&(start, _): &(usize, usize)| batch.ids[start..start + 3].iter().map(|id| *id as u8 as char).collect();
        batch.segments.iter().map(name).zip(batch.samples.iter().copied()).collect()
    };
    batches.flat_map(of).collect()
}

fn joined(names: &[(String, usize)]) -> String {
    names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn sets_follow_each_other_pass_after_pass() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [set(folder.path(), 'a', 3), set(folder.path(), 'b', 2)];
    let found = names(&sets, &options(), 4);
    assert_eq!(joined(&found), "a00 a01 a02 b00 b01 a00 a01 a02");
    assert!(found.iter().enumerate().all(|(at, (_, number))| *number == at));
    let options_of_all = options();
    let mut steps = Steps::new(&sets, &Letters, &options_of_all).unwrap();
    // The third step has a sample of the second pass.
    assert_eq!([(); 4].map(|()| steps.step().unwrap().1), [true, true, false, false]);
    let first = StreamOptions { tokens: TokenOptions { max_samples: Some(1), ..options().tokens }, ..options() };
    assert_eq!(joined(&names(&sets, &first, 2)), "a00 b00 a00 b00");
}

#[test]
fn sets_are_interleaved_until_one_or_all_are_gone_through() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [set(folder.path(), 'a', 3), set(folder.path(), 'b', 1)];
    let with = |mix_strategy, shares| StreamOptions { mix_strategy, shares, ..options() };
    let under = names(&sets, &with(MixStrategy::InterleaveUnder, None), 3);
    // The pass ends where b has no more.
    assert_eq!(joined(&under), "a00 b00 a01 a00 b00 a01");
    let over = names(&sets, &with(MixStrategy::InterleaveOver, None), 4);
    assert_eq!(joined(&over), "a00 b00 a01 b00 a02 b00 a00 b00");
    let sets = [set(folder.path(), 'a', 90), set(folder.path(), 'b', 90)];
    let drawn = names(&sets, &with(MixStrategy::InterleaveOver, Some(vec![0.75, 0.25])), 400);
    let share = drawn.iter().filter(|(name, _)| name.starts_with('a')).count() as f64 / 800.0;
    assert!((share - 0.75).abs() < 0.05, "{share}");
}

#[test]
fn shuffling_is_within_the_buffer_and_another_in_every_pass() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [set(folder.path(), 'a', 60)];
    let mut shuffled = StreamOptions { shuffle_buffer: 10, ..options() };
    shuffled.loader.shuffle = true;
    let found = names(&sets, &shuffled, 60);
    let (one, two) = found.split_at(60);
    for pass in [one, two] {
        let mut sorted: Vec<&String> = pass.iter().map(|(name, _)| name).collect();
        // No sample comes before the buffer has had it.
        assert!(sorted.iter().enumerate().all(|(at, name)| name[1..].parse::<usize>().unwrap() < at + 10));
        assert!(!sorted.is_sorted());
        sorted.sort();
        assert!(sorted.iter().enumerate().all(|(at, name)| **name == format!("a{at:02}")));
    }
    assert_ne!(joined(one), joined(two));
    assert_eq!(names(&sets, &shuffled, 60), found);
    shuffled.loader.seed = 4;
    assert_ne!(joined(&names(&sets, &shuffled, 60)), joined(&found));
}

#[test]
fn rows_are_packed_and_every_sample_comes_once_a_pass() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [set(folder.path(), 'a', 60)];
    let mut packed = StreamOptions { packing_buffer: 20, ..options() };
    packed.loader.packing = Some(Packing { tokens: 12, pictures: usize::MAX });
    let mut steps = Steps::new(&sets, &Letters, &packed).unwrap();
    let (mut seen, mut count) = (Vec::new(), 0);
    while seen.len() < 60 {
        let batch = steps.step().unwrap().0.remove(0);
        assert!(batch.ids.len() <= 24);
        count += 1;
        seen.extend(batch.samples);
    }
    // 36 rows: of the first 20 samples 6, of the next 10, and the last 20, of 7 or 8 tokens, one each.
    assert_eq!(count, 18);
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.starts_with(&(0..60).collect::<Vec<_>>()));
}

#[test]
fn what_is_wrong_is_told_where_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let mut sets = [set(folder.path(), 'a', 3)];
    fs::write(&sets[0].path, "{\"text\": \"abc.\"}\n{\"text\": \"abd.\"}\n{\"text\": 3}\n").unwrap();
    let options = options();
    let mut steps = Steps::new(&sets, &Letters, &options).unwrap();
    assert!(steps.step().is_ok());
    assert!(steps.step().unwrap_err().to_string().contains("a.jsonl:3"));
    fs::write(&sets[0].path, "{\"text\": \"much too long for this\"}\n").unwrap();
    let drops =
        StreamOptions { tokens: TokenOptions { excess_length: ExcessLength::Drop, ..options.tokens }, ..options };
    let error = Steps::new(&sets, &Letters, &drops).unwrap().step().unwrap_err().to_string();
    assert!(error.contains("sequence_len 12"), "{error}");
    sets[0].split = Some("train[10%:]".to_owned());
    let error = Steps::new(&sets, &Letters, &drops).unwrap().step().unwrap_err().to_string();
    assert!(error.contains("train[10%:]") && error.contains("streaming"), "{error}");
}
