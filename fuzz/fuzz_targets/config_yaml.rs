#![no_main]

grades_fuzz::target!("config_yaml");
