//! The progress line: one that is overwritten on a terminal, one after the other elsewhere.

use std::io::{IsTerminal as _, Write as _};

/// Where the conductor is.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
}

impl Progress {
    /// On standard error.
    pub(crate) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal() }
    }

    /// What is done now.
    pub(crate) fn say(&self, what: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K… {what}");
            let _shown = std::io::stderr().flush();
        } else {
            eprintln!("bench: {what}");
        }
    }

    /// How far it is; only where it can be overwritten.
    pub(crate) fn tick(&self, what: &str) {
        if self.is_terminal {
            self.say(what);
        }
    }

    /// What was found, which stays.
    pub(crate) fn note(&self, what: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
        eprintln!("bench: {what}");
    }

    /// Nothing more: the table comes.
    pub(crate) fn end(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
