#![no_main]

grades_fuzz::target!("picture");
