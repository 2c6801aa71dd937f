#![no_main]

grades_fuzz::target!("jsonl_gz");
