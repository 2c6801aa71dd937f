//! Ctrl-C and its relatives.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use anyhow::Context;
use grades_train::train::Interrupt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell adds to the number of the signal that ended a program.
const SIGNALLED: i32 = 128;

/// The status of a program that a signal ended.
pub(crate) fn status(signal: i32) -> i32 {
    SIGNALLED + signal
}

/// Whether a signal is that of Ctrl-C.
pub(crate) fn is_ctrl_c(signal: i32) -> bool {
    signal == SIGINT
}

/// Lets the first Ctrl-C or SIGTERM ask whoever looks at the interrupt, and the second one end the program at once; as the first
/// does, too, while [`Interrupt::at_once`] is set. A closed terminal does not end the program.
pub(crate) fn interrupt() -> anyhow::Result<Interrupt> {
    let interrupt = Interrupt::default();
    for signal in [SIGINT, SIGTERM] {
        // In this order, so that the first signal sets what the second finds.
        flag::register_conditional_shutdown(signal, status(signal), Arc::clone(interrupt.at_once()))
            .and_then(|_| flag::register(signal, Arc::clone(interrupt.at_once())))
            .and_then(|_| flag::register_usize(signal, Arc::clone(interrupt.signal()), signal as usize))
            .context("the program cannot listen to signals")?;
    }
    #[cfg(unix)]
    flag::register(signal_hook::consts::SIGHUP, Arc::default()).context("the program cannot listen to signals")?;
    Ok(interrupt)
}

/// Takes the end of standard input for a SIGTERM: whoever began this process and holds the other end has ended, or wants it
/// ended.
pub(crate) fn end_with_stdin(interrupt: Interrupt) {
    thread::spawn(move || {
        let mut byte = [0];
        while io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {}
        if interrupt.at_once().swap(true, SeqCst) {
            std::process::exit(status(SIGTERM));
        }
        interrupt.signal().store(SIGTERM as usize, SeqCst);
    });
}
