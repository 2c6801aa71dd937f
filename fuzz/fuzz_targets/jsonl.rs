#![no_main]

grades_fuzz::target!("jsonl");
