#![no_main]

grades_fuzz::target!("chat_template");
