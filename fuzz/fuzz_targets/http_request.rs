#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| grades_hostile::read("http_request", bytes));
