//! What a healthy journal does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures::FutureExt as _;
use futures::future::join_all;

use super::*;
use crate::domain::pending::End;
use crate::journal::JournalError;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn entries_outlive_the_process() {
    let dir = folder();
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert!(opened.pending.is_empty() && opened.damage.is_empty() && journal.is_empty());
    journal.intend(&intent(1, 1)).await.unwrap();
    journal.intend(&intent(2, 1)).await.unwrap();
    journal.intend(&intent(3, 1)).await.unwrap();
    journal.answer(account(2), &session(2, 1)).await.unwrap();
    journal.answer(account(3), &session(3, 1)).await.unwrap();
    // Replaced, answered again, ended.
    journal.intend(&intent(1, 2)).await.unwrap();
    journal.intend(&intent(4, 1)).await.unwrap();
    journal.end(account(4), End::Unsent);
    settle(&journal).await;
    let expected = [entry(1, 2, false), entry(2, 1, true), entry(3, 1, true)];
    assert_eq!(journal.all().iter().map(said).collect::<Vec<_>>(), expected);
    assert_eq!(journal.pending(account(2)).as_ref().map(said), Some(entry(2, 1, true)));
    assert!(journal.pending(account(4)).is_none() && journal.len() == 3);

    let crashed = crashed(dir.path());
    let probe = entry(255, 0, false);
    for dir in [crashed.path(), dir.path()] {
        let read = Journal::read(dir).unwrap();
        let left: Vec<_> = all(&read).into_iter().filter(|it| *it != probe).collect();
        assert_eq!((left.as_slice(), read.damage.len()), (&expected[..], 0));
    }
    journal.close().await;
    let (_journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(all(&opened), expected);
    assert!(opened.damage.is_empty());
}

#[tokio::test]
async fn an_end_without_a_wait_reaches_the_log() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.intend(&intent(1, 1)).await.unwrap();
    journal.end(account(1), End::Stored);
    journal.end(account(1), End::Stored);
    assert!(journal.is_empty());
    for _ in 0..500 {
        if Journal::read(dir.path()).unwrap().pending.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the end never reached the log");
}

#[tokio::test]
async fn what_waits_together_shares_an_fsync() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let before = journal.syncs();
    let intents: Vec<_> = (0..64).map(|n| intent(n, 1)).collect();
    // The writer gathers while memory is locked: it needs that to write.
    let mut all_of_them = Box::pin(join_all(intents.iter().map(|it| journal.intend(it))));
    {
        let _held = journal.0.shared.live();
        assert!((&mut all_of_them).now_or_never().is_none());
    }
    assert!(all_of_them.await.iter().all(Result::is_ok));
    // What it had taken before, and the rest.
    assert!(journal.syncs() - before <= 2, "{} syncs", journal.syncs() - before);
    assert_eq!(journal.len(), 64);
    assert_eq!(Journal::read(dir.path()).unwrap().pending.len(), 64);
}

#[tokio::test]
async fn there_is_one_owner() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.intend(&intent(1, 1)).await.unwrap();
    let error = Journal::open(dir.path()).unwrap_err();
    let JournalError::Locked { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, Some(std::process::id()));
    journal.close().await;
    journal.close().await;
    assert!(matches!(journal.intend(&intent(1, 2)).await, Err(JournalError::Closed)));
    assert!(journal.health().borrow().is_err());
    assert_eq!(journal.len(), 1);
    drop(Journal::open(dir.path()).unwrap());
}

#[tokio::test]
async fn files_are_their_owners_alone() {
    let above = folder();
    let dir = above.path().join("a/state");
    // The mode is given, so even a umask of 0 grants nobody else anything.
    let (journal, _) = Journal::open(&dir).unwrap();
    for folder in [&dir, &above.path().join("a")] {
        assert_eq!(mode(folder), 0o700);
    }
    journal.intend(&intent(1, 1)).await.unwrap();
    assert_eq!((mode(&dir.join("log")), mode(&dir.join("lock"))), (0o600, 0o600));
    journal.close().await;
    assert_eq!(mode(&dir.join("log")), 0o600);
    assert!(!dir.join("log.new").exists());
    fs::set_permissions(dir.join("lock"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(dir.join("log"), "refreshd journal 1").unwrap();
    let (_journal, opened) = Journal::open(&dir).unwrap();
    assert_eq!(opened.damage.len(), 1);
    let modes: Vec<_> = fs::read_dir(&dir).unwrap().map(|it| mode(&it.unwrap().path())).collect();
    assert_eq!(modes, [0o600; 3]);
}

#[tokio::test]
async fn no_spent_token_rests_in_a_closed_journal() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    for call in 0..20 {
        journal.intend(&intent(1, call)).await.unwrap();
        journal.answer(account(1), &session(1, call)).await.unwrap();
        journal.end(account(1), End::Stored);
    }
    let debug = format!("{journal:?} {:?}", journal.all());
    assert!(!debug.contains("e30."), "{debug}");
    journal.close().await;
    assert_eq!(fs::read(dir.path().join("log")).unwrap(), b"refreshd journal 1\n\0");
}

#[tokio::test]
async fn an_answer_needs_an_intent() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let error = journal.answer(account(1), &session(1, 1)).await.unwrap_err();
    assert!(matches!(error, JournalError::NoIntent { .. }), "{error}");
}

#[tokio::test]
async fn an_entry_may_become_older_and_never_younger() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.intend(&intent(1, 7)).await.unwrap();
    journal.intend(&intent(2, 7)).await.unwrap();
    let (older, younger) = (intent(1, 3).at, intent(1, 9).at);
    journal.backdate(account(1), older);
    journal.backdate(account(2), younger);
    journal.backdate(account(3), older);
    journal.close().await;
    let (_journal, opened) = Journal::open(dir.path()).unwrap();
    let at: Vec<_> = opened.pending.iter().map(|it| it.intent.at).collect();
    assert_eq!(at, [older, intent(2, 7).at], "also in the next life");
}

#[tokio::test]
async fn one_that_is_off_keeps_nothing_and_stops_nobody() {
    let journal = Journal::off();
    journal.intend(&intent(1, 1)).await.unwrap();
    journal.answer(account(1), &session(1, 1)).await.unwrap();
    assert!(journal.is_empty() && journal.health().borrow().is_ok());
    journal.end(account(1), End::Stored);
    journal.close().await;
    assert_eq!(journal.syncs(), 0);
}

#[tokio::test]
async fn the_log_is_written_anew_when_it_is_long() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.intend(&intent(7, 7)).await.unwrap();
    let mut big = session(1, 0);
    big.handle = "h".repeat(200_000);
    let log = dir.path().join("log");
    let mut longest = 0;
    for call in 0..120 {
        journal.intend(&intent(1, call)).await.unwrap();
        journal.answer(account(1), &big).await.unwrap();
        longest = longest.max(fs::metadata(&log).unwrap().len());
        if call % 10 == 0 {
            let read = Journal::read(dir.path()).unwrap();
            assert!(read.damage.is_empty() && read.pending.len() == 2, "{:?}", read.damage);
        }
    }
    assert!((16 << 20..24 << 20).contains(&longest), "{longest}");
    assert!(fs::metadata(&log).unwrap().len() < 12 << 20);
    journal.close().await;
    let (_journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(all(&opened).last(), Some(&entry(7, 7, false)));
}

async fn come_and_go(journal: &Journal, n: u8, call: u32) {
    journal.intend(&intent(n, call)).await.unwrap();
    journal.answer(account(n), &session(n, call)).await.unwrap();
    journal.end(account(n), End::Stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_half_a_write() {
    let dir = folder();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.intend(&intent(200, 1)).await.unwrap();
    let writing = {
        let journal = journal.clone();
        async move {
            for call in 0..40 {
                join_all((0..8).map(|n| come_and_go(&journal, n, call))).await;
            }
        }
    };
    let path = dir.path().to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        for _ in 0..60 {
            let read = Journal::read(&path).unwrap();
            assert!(read.damage.is_empty(), "{:?}", read.damage);
            assert!(all(&read).contains(&entry(200, 1, false)));
        }
    });
    let (reading, ()) = tokio::join!(reading, writing);
    reading.unwrap();
}

#[test]
fn nothing_is_read_of_nothing() {
    let dir = folder();
    let read = Journal::read(dir.path()).unwrap();
    assert!(read.pending.is_empty() && read.damage.is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let error = Journal::read(&dir.path().join("none")).unwrap_err();
    assert!(error.to_string().contains("is not there"), "{error}");
}
