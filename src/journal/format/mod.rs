//! The log as bytes: a first line that names the version, then records.
//!
//! A later version adds its number to [`KNOWN`] and a reader to [`read`]; the readers of the older
//! ones stay, and so does `testdata/` with a log of each.
//!
//! Version 1: `refreshd journal 1\n`, [frames](frame) with one [record] each, and at least
//! one zero byte. An account has one entry: the last record of it wins.

mod frame;
mod record;

use std::collections::BTreeMap;

use super::damage::{Damage, Flaw};
use super::size;
use crate::domain::identity::AccountId;
use crate::domain::pending::Pending;

use frame::{Frames, Piece};
use record::Record;

pub(super) use record::{TooLong, write_answer, write_end, write_intent};

/// The newest version that is read, and the one that is written.
pub(super) const KNOWN: u32 = 1;
/// The first line of version 1.
pub(super) const HEADER: &[u8] = b"refreshd journal 1\n";
/// What the first line of every version begins with.
const NAME: &[u8] = b"refreshd journal ";

/// Why a file was not read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRead {
    /// It is no journal.
    Foreign,
    /// A later version wrote it, in this format.
    Newer(u32),
}

/// What a log says.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) pending: BTreeMap<AccountId, Pending>,
    pub(super) damage: Vec<Damage>,
}

/// Reads a log, whichever version wrote it.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, NotRead> {
    match version(bytes) {
        Some((1, header)) => Ok(read_1(bytes, header)),
        Some((found, _)) if found > KNOWN => Err(NotRead::Newer(found)),
        // The first line may be damaged and the rest not: intact records prove a journal.
        _ => {
            let begins = bytes.len() < NAME.len() && NAME.starts_with(bytes);
            let zeros = bytes.iter().all(|byte| *byte == 0);
            let mut contents = read_1(bytes, 0);
            let records = Frames::new(bytes, 0).any(|piece| matches!(piece, Piece::Record { .. }));
            if !(records || begins || zeros || bytes.starts_with(NAME.trim_ascii_end())) {
                return Err(NotRead::Foreign);
            }
            if let Some(first) = contents.damage.first_mut().filter(|it| it.offset == 0) {
                first.what = Flaw::Header;
            } else {
                contents.damage.insert(0, Damage { offset: 0, bytes: 0, what: Flaw::Header });
            }
            Ok(contents)
        }
    }
}

/// The version that an intact first line names, and the line's length.
fn version(bytes: &[u8]) -> Option<(u32, usize)> {
    let rest = bytes.strip_prefix(NAME)?;
    let digits = rest.split(|byte| *byte == b'\n').next()?;
    let good = (1..=9).contains(&digits.len())
        && digits.len() < rest.len()
        && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| good)?.parse().ok()?;
    Some((number, NAME.len() + digits.len() + 1))
}

fn read_1(bytes: &[u8], header: usize) -> Contents {
    let mut contents = Contents::default();
    for piece in Frames::new(bytes, header) {
        let (offset, length, flaw) = match piece {
            Piece::Record { offset, length, payload } => match record::read(payload) {
                Ok(record) => {
                    contents.apply(record);
                    continue;
                }
                Err(flaw) => (offset, length, flaw),
            },
            Piece::Damaged { offset, length, flaw } => (offset, length, flaw),
        };
        contents.damage.push(Damage { offset: size(offset), bytes: size(length), what: flaw });
    }
    contents
}

impl Contents {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Pending(pending) => {
                self.pending.insert(pending.intent.account, *pending);
            }
            Record::End(account) => {
                self.pending.remove(&account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_version() {
        assert_eq!(version(HEADER), Some((1, HEADER.len())));
        assert_eq!(version(b"refreshd journal 20\nx"), Some((20, 20)));
        for bad in ["", "refreshd journal ", "refreshd journal 1", "refreshd journal x\n", "\n"] {
            assert_eq!(version(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_journal_is_told_from_a_damaged_one() {
        for foreign in ["hello", "refreshd\n", "{}", "\n", "refreshd-journal 1\n"] {
            let read = read(foreign.as_bytes());
            assert_eq!(read.unwrap_err(), NotRead::Foreign, "{foreign}");
        }
        assert_eq!(read(b"refreshd journal 2\nwhatever").unwrap_err(), NotRead::Newer(2));
        for damaged in ["", "refresh", "refreshd journal 1", "refreshd journal ?\n", "\0\0"] {
            let contents = read(damaged.as_bytes()).unwrap();
            assert!(contents.pending.is_empty());
            assert!(contents.damage.iter().any(|it| it.what == Flaw::Header), "{damaged:?}");
        }
    }
}
