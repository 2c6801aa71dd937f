#![no_main]

grades_fuzz::target!("safetensors_index");
