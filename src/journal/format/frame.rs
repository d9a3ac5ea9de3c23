//! The frame of a record: magic bytes, length, checksum, payload. A reader finds the next intact
//! frame behind a damaged one.

use crc32fast::Hasher;

use crate::journal::damage::Flaw;

/// No UTF-8 text holds the byte 0xff, so no payload looks like a frame.
const MAGIC: [u8; 4] = [0xff, b'r', b'j', 0xfe];
/// Magic, length and checksum, in bytes.
const HEAD: usize = 12;
/// The longest payload, in bytes: twice the longest answer that is read from a server.
pub(super) const MOST_PAYLOAD: usize = 512 * 1_024;

/// Appends a frame. `false`, and nothing is appended: the payload is too long.
pub(super) fn write(payload: &[u8], into: &mut Vec<u8>) -> bool {
    let Some(length) = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MOST_PAYLOAD)
    else {
        return false;
    };
    into.extend_from_slice(&MAGIC);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&checksum(length, payload).to_le_bytes());
    into.extend_from_slice(payload);
    true
}

fn checksum(length: u32, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// What stands at a place of the log. Offsets and lengths in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// An intact frame.
    Record { offset: usize, length: usize, payload: &'a [u8] },
    /// Something else.
    Damaged { offset: usize, length: usize, flaw: Flaw },
}

/// Reads pieces up to the log's end: the zeros behind the last one.
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    ended: bool,
}

impl<'a> Frames<'a> {
    /// The pieces of `bytes` from offset `at` on.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, ended: false }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.ended {
            return None;
        }
        let offset = self.at;
        let rest = self.bytes.get(offset..).unwrap_or_default();
        if let Some(payload) = intact(rest) {
            let length = HEAD + payload.len();
            self.at += length;
            return Some(Piece::Record { offset, length, payload });
        }
        if let Some(length) = next_intact(rest) {
            self.at += length;
            return Some(Piece::Damaged { offset, length, flaw: Flaw::Unreadable });
        }
        self.ended = true;
        let length = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let flaw = if rest.is_empty() { Flaw::CutOff } else { Flaw::TornTail };
        (length > 0 || flaw == Flaw::CutOff).then_some(Piece::Damaged { offset, length, flaw })
    }
}

/// The payload of the frame that `bytes` begin with, if it is intact.
fn intact(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    let bounded = usize::try_from(length).ok().filter(|it| *it <= MOST_PAYLOAD)?;
    let payload = rest.get(..bounded)?;
    (checksum(length, payload) == u32::from_le_bytes(*expected)).then_some(payload)
}

/// How far it is to the next intact frame; there is none at the start.
fn next_intact(bytes: &[u8]) -> Option<usize> {
    let candidates = bytes.windows(MAGIC.len()).enumerate().skip(1);
    candidates
        .filter(|(_, window)| *window == MAGIC)
        .map(|(at, _)| at)
        .find(|at| bytes.get(*at..).is_some_and(|rest| intact(rest).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(payloads.iter().all(|payload| write(payload, &mut bytes)));
        bytes.push(0);
        bytes
    }

    #[test]
    fn frames_are_read_back() {
        let bytes = log(&[b"one", b"", b"three"]);
        let payloads: Vec<_> = Frames::new(&bytes, 0)
            .map(|piece| match piece {
                Piece::Record { payload, .. } => payload,
                Piece::Damaged { .. } => panic!("{piece:?}"),
            })
            .collect();
        assert_eq!(payloads, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn the_longest_payload_is_bounded() {
        let mut bytes = Vec::new();
        assert!(write(&vec![b'a'; MOST_PAYLOAD], &mut bytes));
        let before = bytes.len();
        assert!(!write(&vec![b'a'; MOST_PAYLOAD + 1], &mut bytes));
        assert_eq!(bytes.len(), before);
        // A length that is a lie reads nothing beyond the bound.
        bytes.truncate(HEAD);
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(intact(&bytes), None);
    }

    #[test]
    fn damage_is_told_by_its_place() {
        let whole = log(&[b"one", b"two"]);
        let mut middle = whole.clone();
        middle[HEAD] ^= 1;
        let pieces: Vec<_> = Frames::new(&middle, 0).collect();
        let unreadable = Piece::Damaged { offset: 0, length: HEAD + 3, flaw: Flaw::Unreadable };
        assert_eq!(pieces, [unreadable, Piece::Record { offset: 15, length: 15, payload: b"two" }]);
        let mut torn = whole[..25].to_vec();
        torn.extend([0; 9]);
        let last = Frames::new(&torn, 0).last();
        // The cut record's own trailing zeros, if it has any, count for padding.
        assert!(matches!(
            last,
            Some(Piece::Damaged { offset: 15, length: 6..=10, flaw: Flaw::TornTail })
        ));
        let cut = Frames::new(&whole[..30], 0).last();
        assert_eq!(cut, Some(Piece::Damaged { offset: 30, length: 0, flaw: Flaw::CutOff }));
        // A gap of zeros before an intact frame is no end.
        let mut gap = vec![0; 7];
        gap.extend(&whole);
        assert_eq!(
            Frames::new(&gap, 0).next(),
            Some(Piece::Damaged { offset: 0, length: 7, flaw: Flaw::Unreadable })
        );
    }
}
