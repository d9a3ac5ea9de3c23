//! Logs that were cut, damaged, or written by somebody else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::domain::pending::End;
use crate::journal::format::{self, Contents, HEADER};
use crate::journal::{Damage, Flaw, JournalError, size};

/// A log of version 1 with one of everything; and where each record ends.
fn log() -> (Vec<u8>, Vec<usize>) {
    let mut bytes = HEADER.to_vec();
    let mut ends = vec![bytes.len()];
    let mut add = |write: &dyn Fn(&mut Vec<u8>) -> Result<(), format::TooLong>| {
        write(&mut bytes).unwrap();
        ends.push(bytes.len());
    };
    add(&|log| format::write_intent(&intent(1, 1), log));
    add(&|log| format::write_intent(&intent(2, 1), log));
    add(&|log| format::write_answer(&intent(2, 1), &session(2, 1), log));
    add(&|log| format::write_intent(&intent(3, 1), log));
    add(&|log| format::write_end(account(3), End::Stored, log));
    add(&|log| format::write_answer(&intent(4, 1), &session(4, 1), log));
    add(&|log| format::write_intent(&intent(1, 2), log));
    add(&|log| format::write_answer(&intent(5, 1), &session(5, 1), log));
    bytes.push(0);
    (bytes, ends)
}

/// What the whole log says.
fn whole() -> Vec<String> {
    vec![entry(1, 2, false), entry(2, 1, true), entry(4, 1, true), entry(5, 1, true)]
}

/// All that it says at some moment.
fn ever() -> BTreeSet<String> {
    let more = [entry(1, 1, false), entry(2, 1, false), entry(3, 1, false)];
    whole().into_iter().chain(more).collect()
}

fn entries(contents: &Contents) -> Vec<String> {
    contents.pending.values().map(said).collect()
}

#[test]
fn the_golden_log_of_version_1_is_read_for_ever() {
    let golden = include_bytes!("../testdata/v1.log");
    let contents = format::read(golden).unwrap();
    assert_eq!((entries(&contents), contents.damage), (whole(), vec![]));
}

#[test]
fn a_flipped_bit_is_named_and_changes_no_entry() {
    let (good, _) = log();
    let (ever, whole) = (ever(), whole());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let contents = match format::read(&bytes) {
                Ok(contents) => contents,
                // The digit of the version.
                Err(error) => {
                    assert!(
                        matches!(error, format::NotRead::Newer(_)) && at == 17,
                        "{at} {error:?}"
                    );
                    continue;
                }
            };
            assert!(!contents.damage.is_empty(), "byte {at}, bit {bit}: nothing is named");
            let entries = entries(&contents);
            assert!(entries.iter().all(|it| ever.contains(it)), "byte {at}: {entries:?}");
            let lost = whole.iter().filter(|it| !entries.contains(it)).count();
            assert!(lost <= 1, "byte {at}: {lost} entries lost");
            if at < HEADER.len() {
                assert_eq!((lost, contents.damage[0].what), (0, Flaw::Header), "byte {at}");
            }
        }
    }
}

#[test]
fn a_log_that_is_cut_keeps_what_is_whole_and_says_so() {
    let (good, ends) = log();
    for length in 0..good.len() {
        let contents = format::read(&good[..length]).unwrap();
        assert!(!contents.damage.is_empty(), "cut at {length}: nothing is named");
        let intact = ends.iter().filter(|end| **end <= length).count();
        let mut before = good[..ends[intact.saturating_sub(1)].min(length)].to_vec();
        before.push(0);
        if intact > 0 {
            assert_eq!(entries(&contents), entries(&format::read(&before).unwrap()), "{length}");
        }
    }
}

#[test]
fn a_torn_tail_is_told_from_damage() {
    let (good, ends) = log();
    let last = ends[ends.len() - 2];
    for cut in last + 1..ends[ends.len() - 1] {
        // The rest is the zeros that were there before.
        let mut bytes = good[..cut].to_vec();
        bytes.resize(good.len() + 4_096, 0);
        let contents = format::read(&bytes).unwrap();
        let [Damage { offset, what: Flaw::TornTail, .. }] = contents.damage[..] else {
            panic!("cut at {cut}: {:?}", contents.damage)
        };
        assert_eq!(offset, size(last));
        assert_eq!(entries(&contents), whole()[..3], "cut at {cut}");
    }
    let mut bytes = good;
    bytes[ends[2] + 20] ^= 1;
    let contents = format::read(&bytes).unwrap();
    let length = size(ends[3] - ends[2]);
    let expected = Damage { offset: size(ends[2]), bytes: length, what: Flaw::Unreadable };
    assert_eq!(contents.damage, [expected]);
    assert!(entries(&contents).contains(&entry(2, 1, false)));
}

/// A log with one record of the given payload.
fn with(payload: &str) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    hasher.update(&length);
    hasher.update(payload.as_bytes());
    let sum = hasher.finalize().to_le_bytes();
    [HEADER, &[0xff, b'r', b'j', 0xfe], &length, &sum, payload.as_bytes(), &[0]].concat()
}

#[test]
fn an_intact_record_that_says_nonsense_is_named() {
    let account = account(1).to_string();
    let good = json!({
        "kind": "answer", "account": account, "service": "https://pds.example", "token": jwt("a"),
        "at": "2026-01-02T03:04:05Z", "access": jwt("b"), "refresh": jwt("c"), "did": "d",
        "handle": "", "of_a_later_version": {"x": [1]},
    });
    let contents = format::read(&with(&good.to_string())).unwrap();
    assert_eq!((contents.pending.len(), contents.damage.len()), (1, 0));
    for (field, value, what) in [
        ("kind", json!("poem"), Flaw::UnknownKind),
        ("kind", json!(7), Flaw::Content("kind")),
        ("account", json!("x"), Flaw::Content("account")),
        ("service", json!("x"), Flaw::Content("service")),
        ("token", json!("e30.secret"), Flaw::Content("used token")),
        ("access", json!("e30.secret"), Flaw::Content("new access token")),
        ("refresh", json!("e30.secret"), Flaw::Content("new refresh token")),
        ("at", json!("then"), Flaw::Content("call")),
        ("did", json!(null), Flaw::Content("answer")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let contents = format::read(&with(&bad.to_string())).unwrap();
        assert!(contents.pending.is_empty());
        assert_eq!(contents.damage.iter().map(|it| it.what).collect::<Vec<_>>(), [what], "{field}");
        assert!(!contents.damage[0].to_string().contains("secret"));
    }
}

fn kept(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|it| it.starts_with("log.damaged-")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_damaged_log_is_kept_and_replaced() {
    let dir = folder();
    let (mut bytes, ends) = log();
    bytes[ends[3] + 20] ^= 1;
    for round in 1..=5 {
        fs::write(dir.path().join("log"), &bytes).unwrap();
        let read = Journal::read(dir.path()).unwrap();
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert_eq!((opened.damage.len(), &opened.damage), (1, &read.damage));
        assert_eq!((all(&opened), all(&read)), (whole(), whole()));
        journal.close().await;
        let kept = kept(dir.path());
        assert_eq!(kept.len(), round.min(3), "{kept:?}");
        assert!(fs::read(dir.path().join(&kept[0])).unwrap() == bytes);
    }
    let (_journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!((all(&opened), opened.damage), (whole(), vec![]));
}

#[tokio::test]
async fn a_torn_end_takes_no_damaged_logs_place() {
    let dir = folder();
    let (mut bytes, ends) = log();
    for torn in [false, true, true, true, true] {
        let at = if torn { ends[ends.len() - 2] } else { ends[3] } + 20;
        bytes[at] ^= 1;
        fs::write(dir.path().join("log"), &bytes).unwrap();
        bytes[at] ^= 1;
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert_eq!(opened.damage.len(), 1);
        assert_eq!(opened.damage[0].what == Flaw::TornTail, torn);
        journal.close().await;
    }
    assert_eq!(kept(dir.path()).len(), 1);
    assert!(dir.path().join("log.torn").exists());
}

#[test]
fn what_others_wrote_is_not_touched() {
    for text in ["something else\n", "refreshd journal 2\n\u{1}\u{2}", "\u{7f}ELF"] {
        let dir = folder();
        fs::write(dir.path().join("log"), text).unwrap();
        for error in
            [Journal::open(dir.path()).unwrap_err(), Journal::read(dir.path()).unwrap_err()]
        {
            let newer = text.starts_with("refreshd");
            match &error {
                JournalError::Version { found: 2, known: 1, .. } => assert!(newer),
                JournalError::Foreign { .. } => assert!(!newer),
                _ => panic!("{error}"),
            }
            assert!(error.to_string().contains("STATE_DIR"), "{error}");
        }
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), text);
        assert!(kept(dir.path()).is_empty() && !dir.path().join("log.new").exists());
    }
}
