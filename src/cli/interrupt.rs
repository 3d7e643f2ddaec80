//! The signals that end a command before it is done: an interrupt from the keyboard, a request to end, a lost terminal.
//!
//! The first one makes the library stop at the next safe point, clean up and return
//! [`Error::Interrupted`](backuptool::Error::Interrupted). The second one ends the process at once, which leaves no more
//! behind than a power failure does. A signal that was ignored when the program began stays so: `nohup` and shells that
//! begin something in the background rely on that.
//!
//! `signal-hook` because it sets flags from the handler itself, through a safe interface: no thread that must get its
//! turn, the number of the signal is known, and "at once the second time" is one of its own building blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use backuptool::ops;
use backuptool::progress::Interruption;
use backuptool::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// What was received.
#[derive(Default)]
pub(super) struct Signals {
    any: Arc<AtomicBool>,
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// Listens from now on.
    pub(super) fn listen() -> Result<Self> {
        let signals = Self::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            if !ops::ignores_signal(signal) {
                signals.listen_to(signal).map_err(|error| Error::io("listen to signals of", "this process", error))?;
            }
        }
        Ok(signals)
    }

    fn listen_to(&self, signal: i32) -> std::io::Result<()> {
        // In this order: the flag of the first signal is what makes the second one end the process.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&self.any))?;
        flag::register_usize(signal, Arc::clone(&self.last), signal.unsigned_abs() as usize)?;
        flag::register(signal, Arc::clone(&self.any))?;
        Ok(())
    }

    /// For the library: whether to stop.
    pub(super) fn interruption(&self) -> Interruption {
        Interruption::from_flag(Arc::clone(&self.any))
    }

    /// The number of the last signal that was received, 0 if there was none.
    pub(super) fn last(&self) -> i32 {
        i32::try_from(self.last.load(Ordering::Relaxed)).unwrap_or(0)
    }
}
