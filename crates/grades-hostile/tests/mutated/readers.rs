//! How many damaged files each reader gets, and what it may do with them.
//!
//! `GRADES_FUZZ_RUNS` says how many files each reader gets, `GRADES_FUZZ_SEED` which, `GRADES_FUZZ_READER` gives them to one alone.

use std::panic;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use grades_hostile::{Mutator, READERS, Reader, crashes};

use crate::limit;

/// Most bytes of one reader beside what the process holds already: a file of some kilobytes must not make it ask for more.
const MOST: usize = 512 << 20;
/// Longest that one file may take, in which much else may run on the machine.
const LONGEST: Duration = Duration::from_secs(60);

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn hold(Reader { name, read, corpus }: &Reader, runs: u64, seed: u64) {
    let right = corpus();
    assert!(!right.is_empty(), "{name} has no file that is right");
    let whole = [right, crashes(name)].concat();
    let mut mutator = Mutator::new(seed);
    let started = Instant::now();
    // Where a file is that ends the process.
    let last = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.last"));
    for run in 0..runs {
        let file = if (run as usize) < whole.len() { whole[run as usize].clone() } else { mutator.damaged(&whole) };
        let folder = tempfile::tempdir().unwrap();
        fs::write(&last, &file).unwrap();
        let clock = Instant::now();
        let outcome = panic::catch_unwind(|| limit::within(MOST, || read(&file, folder.path())));
        if outcome.is_err() || clock.elapsed() > LONGEST {
            let kept = last.with_extension(format!("{seed}-{run}"));
            fs::copy(&last, &kept).unwrap();
            panic!("{name} panics or takes too long with {}", kept.display());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{name}: {runs} files, {:.0} a second", runs as f64 / seconds);
}

#[test]
fn no_reader_panics_or_allocates_what_a_file_declares() {
    let (runs, seed) = (number("GRADES_FUZZ_RUNS", 300), number("GRADES_FUZZ_SEED", 1));
    let only = env::var("GRADES_FUZZ_READER").ok();
    let readers = READERS.iter().filter(|reader| only.as_ref().is_none_or(|only| only == reader.name));
    readers.for_each(|reader| hold(reader, runs, seed));
}
