//! What can go wrong with the journal, in sentences that say what to do.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::domain::identity::AccountId;

/// An error of the journal. None ever holds a token.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error(
        "the journal in STATE_DIR ({}) is in use by another refreshd{}; stop that one, or give this one a STATE_DIR of its own",
        dir.display(), Process(*pid)
    )]
    Locked {
        /// The journal's folder.
        dir: PathBuf,
        /// The other process's id, if it could be read.
        pid: Option<u32>,
    },
    /// It was written by a newer version. Nothing was touched.
    #[error(
        "the journal in STATE_DIR ({}) has format {found}, and this refreshd knows formats up to {known}; start the version that wrote it",
        dir.display()
    )]
    Version {
        /// The journal's folder.
        dir: PathBuf,
        /// The format that the log says it has.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// The log is something else. Nothing was touched.
    #[error(
        "the file `log` in STATE_DIR ({}) is no journal of refreshd; move it away, or set STATE_DIR to another folder",
        dir.display()
    )]
    Foreign {
        /// The journal's folder.
        dir: PathBuf,
    },
    /// There is none. Nothing was touched.
    #[error(
        "there is no journal in {}; name the STATE_DIR of the instance whose journal is to be settled",
        dir.display()
    )]
    None {
        /// The folder.
        dir: PathBuf,
    },
    /// The disk said no.
    #[error("{}", Refused { dir, what, kind: source.kind() })]
    Io {
        /// The journal's folder.
        dir: PathBuf,
        /// What was tried: "write the journal".
        what: &'static str,
        /// The system's own word.
        source: io::Error,
    },
    /// As many entries are pending as the journal holds, or this one is too long for it.
    #[error(
        "the journal in STATE_DIR is full of calls and answers that are not settled; see that MongoDB can be written and that the servers answer (`refreshd journal` lists them)"
    )]
    Full,
    /// An answer to a call that the journal knows nothing of. Nothing was written or kept.
    #[error("the journal in STATE_DIR holds no call of account {account} that could be answered")]
    NoIntent {
        /// The account.
        account: AccountId,
    },
    /// The journal was closed, or its writer is gone.
    #[error("the journal in STATE_DIR is closed; start refreshd again")]
    Closed,
}

impl JournalError {
    pub(super) fn io(dir: &Path, what: &'static str, source: io::Error) -> Self {
        Self::Io { dir: dir.to_owned(), what, source }
    }
}

struct Process(Option<u32>);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (process {pid})"))
    }
}

struct Refused<'a> {
    dir: &'a Path,
    what: &'a str,
    kind: ErrorKind,
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dir, what) = (self.dir.display(), self.what);
        match self.kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => write!(
                f,
                "cannot {what}: the disk of STATE_DIR ({dir}) is full; free some space on it, no session is refreshed until then"
            ),
            ErrorKind::ReadOnlyFilesystem => write!(
                f,
                "cannot {what}: STATE_DIR ({dir}) is on a read-only file system; mount it writable, or set STATE_DIR to another folder"
            ),
            ErrorKind::PermissionDenied => write!(
                f,
                "cannot {what}: STATE_DIR ({dir}) may not be written; give it to the user that refreshd runs as"
            ),
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                write!(f, "cannot {what}: STATE_DIR ({dir}) is not a folder; set STATE_DIR to one")
            }
            ErrorKind::NotFound => write!(
                f,
                "cannot {what}: STATE_DIR ({dir}) is not there; set STATE_DIR to the folder of a journal"
            ),
            _ => write!(f, "cannot {what} in STATE_DIR ({dir}); check its disk"),
        }
    }
}

/// Whether the disk wants space and is well otherwise.
pub(super) fn wants_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// The same error once more: one failed write fails many.
pub(super) fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_do() {
        let dir = Path::new("state");
        let io = |kind: ErrorKind| JournalError::io(dir, "write the journal", kind.into());
        for (error, says) in [
            (io(ErrorKind::StorageFull), "is full; free some space"),
            (io(ErrorKind::QuotaExceeded), "is full; free some space"),
            (io(ErrorKind::ReadOnlyFilesystem), "read-only file system; mount it writable"),
            (io(ErrorKind::PermissionDenied), "give it to the user"),
            (io(ErrorKind::NotADirectory), "is not a folder; set STATE_DIR"),
            (io(ErrorKind::NotFound), "is not there; set STATE_DIR"),
            (io(ErrorKind::Other), "check its disk"),
            (
                JournalError::Locked { dir: dir.into(), pid: Some(7) },
                "another refreshd (process 7);",
            ),
            (JournalError::Locked { dir: dir.into(), pid: None }, "another refreshd; stop"),
            (
                JournalError::Version { dir: dir.into(), found: 9, known: 1 },
                "start the version that wrote it",
            ),
            (JournalError::Foreign { dir: dir.into() }, "move it away"),
            (JournalError::None { dir: dir.into() }, "name the STATE_DIR"),
            (JournalError::Full, "see that MongoDB can be written"),
            (JournalError::Closed, "start refreshd again"),
        ] {
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("STATE_DIR"), "{text}");
            assert!(!text.ends_with('.') && text.starts_with(char::is_lowercase), "{text}");
        }
    }

    #[test]
    fn one_error_is_told_to_many() {
        let full = io::Error::from_raw_os_error(28);
        assert!(wants_space(&again(&full)), "{:?}", again(&full));
        assert_eq!(again(&ErrorKind::Other.into()).kind(), ErrorKind::Other);
    }
}
