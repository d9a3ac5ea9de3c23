//! A piece of the log that could not be read.

use std::fmt;

/// A piece of the log that was skipped. Shows as one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins, in bytes from the log's start.
    pub offset: u64,
    /// How long it is, in bytes; 0 where bytes are missing.
    pub bytes: u64,
    /// What is wrong with it.
    pub what: Flaw,
}

/// What is wrong with a piece of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The first line is not what it should be; the records behind it were read.
    Header,
    /// No intact record, in the middle: intact ones follow.
    Unreadable,
    /// No intact record, and none follows: a write that a crash cut short, which nobody was told
    /// had succeeded, or damage to the last records.
    TornTail,
    /// The file ends where more must have been: it was cut off.
    CutOff,
    /// An intact record of a kind that this version does not know.
    UnknownKind,
    /// An intact record whose content cannot be read; the text says which part of it.
    Content(&'static str),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, bytes, what } = self;
        match what {
            Flaw::Header => write!(f, "the journal's first line is damaged"),
            Flaw::Unreadable => {
                write!(f, "{bytes} bytes at offset {offset} of the journal are damaged and skipped")
            }
            Flaw::TornTail => write!(
                f,
                "the journal's last {bytes} bytes, at offset {offset}, are an incomplete write and skipped"
            ),
            Flaw::CutOff => {
                write!(f, "the journal is cut off at offset {offset}: what followed is lost")
            }
            Flaw::UnknownKind => write!(
                f,
                "the record of {bytes} bytes at offset {offset} of the journal is of an unknown kind and skipped"
            ),
            Flaw::Content(part) => write!(
                f,
                "the record of {bytes} bytes at offset {offset} of the journal is skipped: its {part} cannot be read"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_shows_as_one_sentence() {
        let say = |what| Damage { offset: 18, bytes: 7, what }.to_string();
        assert_eq!(
            say(Flaw::Unreadable),
            "7 bytes at offset 18 of the journal are damaged and skipped"
        );
        assert_eq!(
            say(Flaw::TornTail),
            "the journal's last 7 bytes, at offset 18, are an incomplete write and skipped"
        );
        assert_eq!(say(Flaw::CutOff), "the journal is cut off at offset 18: what followed is lost");
        assert_eq!(
            say(Flaw::Content("token")),
            "the record of 7 bytes at offset 18 of the journal is skipped: its token cannot be read"
        );
        assert!(say(Flaw::Header).contains("first line"));
        assert!(say(Flaw::UnknownKind).contains("unknown kind"));
    }
}
