//! Disks that are full, read-only or broken.

use std::fs;
use std::time::Duration;

use super::*;
use crate::domain::pending::End;
use crate::journal::JournalError;
use crate::journal::writer::MOST_PENDING;

fn open(dir: &Path) -> (Journal, Faulty) {
    let disk = Faulty::default();
    let (journal, _) = Journal::open_on(Box::new(disk.clone()), dir).unwrap();
    (journal, disk)
}

fn on_disk(dir: &Path) -> Vec<String> {
    let read = Journal::read(crashed(dir).path()).unwrap();
    all(&read)
}

/// Intents until the room that was taken ahead is used up.
async fn use_up_room(journal: &Journal) -> JournalError {
    for call in 0.. {
        if let Err(error) = journal.intend(&intent(u8::try_from(call % 200).unwrap(), call)).await {
            return error;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_full_disk_stops_intents_and_no_answer() {
    let dir = folder();
    let (journal, disk) = open(dir.path());
    disk.set().allocate = Some(ENOSPC);
    let error = use_up_room(&journal).await;
    assert!(error.to_string().contains("is full"), "{error}");
    let told = journal.health().borrow().clone().unwrap_err();
    assert!(told.contains("is full") && told.contains("os error 28"), "{told}");
    assert!(journal.intend(&intent(250, 1)).await.is_err(), "nor any other");
    // Every open intent has its room: all answers are written, even to a disk without any.
    let entries = journal.all();
    assert!(entries.len() > 100, "{}", entries.len());
    let allocated = fs::metadata(dir.path().join("log")).unwrap().len();
    for pending in &entries {
        journal.answer(pending.intent.account, &session(1, 1)).await.unwrap();
    }
    assert_eq!(fs::metadata(dir.path().join("log")).unwrap().len(), allocated);
    let read = Journal::read(dir.path()).unwrap();
    assert!(read.pending.iter().all(|it| it.answer.is_some()) && read.damage.is_empty());
    disk.set().allocate = None;
    until_healthy(&journal, true).await;
    journal.intend(&intent(250, 1)).await.unwrap();
}

#[tokio::test]
async fn a_failed_write_or_fsync_loses_nothing_and_is_mended() {
    for (fault, errno) in [("write", EIO), ("sync", EIO), ("write", ENOSPC), ("sync", EROFS)] {
        let dir = folder();
        let (journal, disk) = open(dir.path());
        journal.intend(&intent(1, 1)).await.unwrap();
        journal.intend(&intent(2, 1)).await.unwrap();
        {
            let mut faults = disk.set();
            faults.sync_all = Some(errno);
            *(if fault == "write" { &mut faults.write } else { &mut faults.sync }) = Some(errno);
        }
        // The answer is kept in memory; the entry that an intent would have replaced stays.
        let error = journal.answer(account(1), &session(1, 1)).await.unwrap_err();
        assert!(matches!(&error, JournalError::Io { .. }), "{error}");
        until_healthy(&journal, false).await;
        assert!(journal.intend(&intent(2, 2)).await.is_err());
        assert!(journal.intend(&intent(3, 1)).await.is_err());
        journal.answer(account(2), &session(2, 1)).await.unwrap_err();
        journal.end(account(2), End::Stored);
        let memory: Vec<_> = journal.all().iter().map(said).collect();
        assert_eq!(memory, [entry(1, 1, true)]);
        // A crash now finds the intents, whole.
        let left = on_disk(dir.path());
        assert!(left.contains(&entry(2, 1, false)), "{left:?}");

        *disk.set() = Faults::default();
        until_healthy(&journal, true).await;
        assert_eq!(on_disk(dir.path()), [entry(1, 1, true)], "{fault} {errno}");
        journal.intend(&intent(3, 1)).await.unwrap();
        journal.close().await;
        assert_eq!(on_disk(dir.path()), [entry(1, 1, true), entry(3, 1, false)]);
    }
}

#[tokio::test]
async fn one_failure_is_mended_at_once() {
    let dir = folder();
    let (journal, disk) = open(dir.path());
    journal.intend(&intent(1, 1)).await.unwrap();
    disk.set().sync = Some(EIO);
    // Memory went to a new log, and the answer with it; the intent was in neither.
    journal.answer(account(1), &session(1, 1)).await.unwrap();
    assert_eq!(on_disk(dir.path()), [entry(1, 1, true)]);
    assert!(journal.intend(&intent(2, 1)).await.is_err());
    assert!(journal.pending(account(2)).is_none());
    assert_eq!(on_disk(dir.path()), [entry(1, 1, true)]);
    disk.set().sync = None;
    journal.intend(&intent(2, 1)).await.unwrap();
}

#[tokio::test]
async fn a_log_that_cannot_be_written_anew_goes_on() {
    let dir = folder();
    let (journal, disk) = open(dir.path());
    // Something is in the way of the new one.
    fs::create_dir(dir.path().join("log.new")).unwrap();
    let mut big = session(1, 0);
    big.handle = "h".repeat(200_000);
    for call in 0..100 {
        journal.intend(&intent(1, call)).await.unwrap();
        journal.answer(account(1), &big).await.unwrap();
    }
    assert!(fs::metadata(dir.path().join("log")).unwrap().len() > 17 << 20);
    disk.set().sync = Some(EIO);
    assert!(journal.intend(&intent(2, 1)).await.is_err());
    until_healthy(&journal, false).await;
    disk.set().sync = None;
    fs::remove_dir(dir.path().join("log.new")).unwrap();
    until_healthy(&journal, true).await;
    assert!(fs::metadata(dir.path().join("log")).unwrap().len() < 4 << 20);
    assert!(journal.pending(account(1)).unwrap().answer.is_some());
}

#[tokio::test]
async fn what_is_pending_is_bounded() {
    let dir = folder();
    let (journal, _disk) = open(dir.path());
    let mut n = 0_u32;
    let error = loop {
        n += 1;
        let weight = journal.0.shared.live().weight();
        assert!(weight < MOST_PENDING + (8 << 20), "{weight} are pending, and none is refused");
        let mut one = intent(1, n);
        let mut id = [9; 12];
        id[..4].copy_from_slice(&n.to_be_bytes());
        one.account = AccountId::from_bytes(id);
        if n.is_multiple_of(512) {
            if let Err(error) = journal.intend(&one).await {
                break error;
            }
        } else {
            // Straight to memory: the bound is what is tested, not the disk.
            journal.0.shared.live().put(Pending { intent: one, answer: None });
        }
    };
    assert!(matches!(error, JournalError::Full), "{error}");
    let mut health = journal.health();
    let full = health.wait_for(Result::is_err).await.unwrap().clone().unwrap_err();
    assert!(full.contains("full of calls and answers"), "{full}");
    // What is pending may be asked again, or it would stay for ever.
    let again = journal.all().swap_remove(0).intent;
    journal.intend(&again).await.unwrap();
    for pending in journal.all() {
        journal.end(pending.intent.account, End::Stored);
    }
    tokio::time::timeout(Duration::from_mins(1), until_healthy(&journal, true)).await.unwrap();
    journal.intend(&intent(1, 1)).await.unwrap();
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_that_names_it() {
    let above = folder();
    let file = above.path().join("file");
    fs::write(&file, "").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let error = Journal::open(&dir).unwrap_err().to_string();
        assert!(error.contains("is not a folder") && error.contains("STATE_DIR"), "{error}");
    }
    for errno in [ENOSPC, EROFS, EIO] {
        let dir = folder();
        let disk = Faulty::default();
        disk.set().sync_all = Some(errno);
        let opened = Journal::open_on(Box::new(disk), dir.path());
        assert!(matches!(opened, Err(JournalError::Io { .. })), "{errno}");
        // Neither a log nor half of one is left, and the lock is free.
        assert!(!dir.path().join("log").exists() && !dir.path().join("log.new").exists());
        Journal::open(dir.path()).unwrap();
    }
}
