#![no_main]

libfuzzer_sys::fuzz_target!(init: grades_fuzz::begin(), |bytes: &[u8]| grades_fuzz::read("tokenizer_model", bytes));
