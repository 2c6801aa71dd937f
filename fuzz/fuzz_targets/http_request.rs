#![no_main]

grades_fuzz::target!("http_request");
