//! What a check has found: told at once, counted for the verdict.

use std::fmt::Display;
use std::io;

use crate::cli::output::line;
use crate::lifecycle::Exit;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    warnings: u64,
    unavailable: bool,
    config: bool,
    failed: bool,
}

impl Findings {
    /// The daemon would work, but somebody should know.
    pub(super) fn odd(&mut self, what: &str, detail: impl Display) -> io::Result<()> {
        self.warnings += 1;
        line(format_args!("warning  {what:<14} {detail}"))
    }

    /// The daemon would not work, and would end like this.
    pub(super) fn bad(&mut self, exit: Exit, what: &str, detail: impl Display) -> io::Result<()> {
        match exit {
            Exit::Unavailable => self.unavailable = true,
            Exit::Config => self.config = true,
            _ => self.failed = true,
        }
        line(format_args!("FAILED   {what:<14} {detail}"))
    }

    /// How many oddities there are.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings
    }

    /// What the daemon would exit with, the worst first.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self { config: true, .. } => Exit::Config,
            Self { unavailable: true, .. } => Exit::Unavailable,
            Self { failed: true, .. } => Exit::Failed,
            _ => Exit::Fine,
        }
    }
}

/// Something is as it should be.
pub(super) fn good(what: &str, detail: impl Display) -> io::Result<()> {
    line(format_args!("ok       {what:<14} {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_exit_status() {
        let found = |unavailable, config, failed| {
            Findings { warnings: 0, unavailable, config, failed }.exit()
        };
        assert_eq!(found(false, false, false), Exit::Fine);
        assert_eq!(found(false, false, true), Exit::Failed);
        assert_eq!(found(true, false, true), Exit::Unavailable);
        assert_eq!(found(true, true, true), Exit::Config);
    }
}
