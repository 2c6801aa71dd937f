#![no_main]

grades_fuzz::target!("tokenizer_model");
