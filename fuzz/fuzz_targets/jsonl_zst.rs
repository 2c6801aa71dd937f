#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| grades_hostile::read("jsonl_zst", bytes));
