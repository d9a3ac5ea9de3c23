//! The thread that writes the log: everything that has gathered goes out with one write and one
//! fsync.

use std::fs::File;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::Shared;
use super::batch::Batch;
use super::disk::{Disk, Log, STEP};
use super::error::{JournalError, again, wants_space};
use super::request::{Done, Replies, Request};
use super::rewrite::{Snapshot, Space, rewrite};
use crate::domain::identity::AccountId;
use crate::domain::pending::{Intent, Pending};

/// How long the disk is left alone after it refused something.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// The log is written anew when it is longer than this, in bytes, and half of it is of the past.
const COMPACT: u64 = 16 * 1_024 * 1_024;
/// A log that cannot be written anew takes no more intents beyond this length, in bytes.
const MOST_LOG: u64 = 128 * 1_024 * 1_024;
/// The most that is pending, in bytes, with room for the answers.
pub(super) const MOST_PENDING: u64 = 48 * 1_024 * 1_024;
/// More than any one intent weighs, in bytes.
const ONE_MORE: u64 = 128 * 1_024;
/// The most that is written at once, in requests.
const MOST_AT_ONCE: usize = 256;

/// After so many at once, more are about to come: the next write waits this long for them, for an
/// fsync costs the same whatever it carries.
const BUSY: usize = 4;
const LINGER: Duration = Duration::from_millis(1);

const WRITE: &str = "write the journal";

/// Why intents are refused.
struct Trouble {
    what: &'static str,
    error: io::Error,
    retry: Instant,
}

impl Trouble {
    fn new(what: &'static str, error: io::Error) -> Self {
        Self { what, error, retry: Instant::now() + RETRY }
    }

    fn tell(&self, dir: &Path) -> JournalError {
        JournalError::io(dir, self.what, again(&self.error))
    }
}

/// The thread's own.
pub(super) struct Writer {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    shared: Arc<Shared>,
    health: watch::Sender<Result<(), String>>,
    /// `None`: a write failed, and the file is not trusted any more.
    log: Option<Log>,
    trouble: Option<Trouble>,
    compact_at: u64,
    /// Held as long as the thread lives.
    _lock: File,
}

impl Writer {
    /// Takes over a folder that is locked, and writes its log anew.
    pub(super) fn new(
        dir: &Path,
        disk: Box<dyn Disk>,
        shared: Arc<Shared>,
        health: watch::Sender<Result<(), String>>,
        lock: File,
    ) -> Result<Self, JournalError> {
        let mut writer = Self {
            dir: dir.to_owned(),
            disk,
            shared,
            health,
            log: None,
            trouble: None,
            compact_at: COMPACT,
            _lock: lock,
        };
        writer.anew(Space::Reserved).map_err(|error| JournalError::io(dir, WRITE, error))?;
        Ok(writer)
    }

    /// Works until the journal is closed, or nobody has it any more.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        let mut busy = false;
        loop {
            let first = match &self.trouble {
                None => requests.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
                Some(trouble) => {
                    let wait = trouble.retry.saturating_duration_since(Instant::now());
                    requests.recv_timeout(wait)
                }
            };
            let gone = matches!(first, Err(RecvTimeoutError::Disconnected));
            if busy {
                #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
                thread::sleep(LINGER);
            }
            let (mut intents, mut answers, mut close) = (Vec::new(), Vec::new(), None);
            for request in first.into_iter().chain(requests.try_iter().take(MOST_AT_ONCE)) {
                match request {
                    Request::Intent(intent, done) => intents.push((intent, done)),
                    Request::Answer(account, done) => answers.push((account, done)),
                    Request::Ends => {}
                    Request::Close(closed) => close = Some(closed),
                }
            }
            self.mend_if_due();
            busy = answers.len() + intents.len() >= BUSY;
            self.write(answers, intents);
            self.compact_if_long();
            self.publish();
            if let Some(closed) = close {
                return self.close(closed);
            }
            if gone {
                return;
            }
        }
    }

    /// One write and one fsync for all, and everybody is told.
    fn write(&mut self, answers: Vec<(AccountId, Done)>, intents: Vec<(Box<Intent>, Done)>) {
        let mut batch = Batch::gather(&mut self.shared.live(), answers, intents);
        let written = self.append(&mut batch);
        let Batch { answered, intended, full, refused, .. } = batch;
        let mut failed = None;
        match written {
            Ok(()) => {
                let mut live = self.shared.live();
                if self.log.is_some() {
                    for (account, _) in &answered {
                        live.logged(*account);
                    }
                }
                for (intent, _) in &intended {
                    live.put(Pending { intent: Intent::clone(intent), answer: None });
                }
            }
            Err(error) => failed = Some(self.break_down(error)),
        }
        // Whoever is told of trouble finds it in the health, too.
        self.publish();
        let mut replies = Replies::default();
        for done in full {
            replies.add(done, Err(JournalError::Full));
        }
        let refusal = || match self.trouble.as_ref().or(failed.as_ref()) {
            Some(trouble) => Err(trouble.tell(&self.dir)),
            None => Ok(()),
        };
        for done in refused {
            replies.add(done, refusal());
        }
        for (_, done) in intended {
            replies.add(done, if failed.is_some() { refusal() } else { Ok(()) });
        }
        for (_, done) in answered {
            // They are in the log, or in the one that was written anew from memory.
            replies.add(done, if self.log.is_some() { Ok(()) } else { refusal() });
        }
        replies.send();
    }

    /// Writes the batch's records. An error means that the file is not to be trusted any more.
    fn append(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.trouble.is_some() {
            batch.refuse_intents();
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let disk = self.disk.as_ref();
        if let Err(error) = log.make_room(disk, batch.room()) {
            if !wants_space(&error) {
                return Err(error);
            }
            batch.refuse_intents();
            if !log.has_room(batch.room()) {
                batch.leave_ends();
            }
            let trouble = || Trouble::new("make room in the journal", error);
            self.trouble.get_or_insert_with(trouble);
        }
        let mut records = batch.records();
        if records.is_empty() {
            return Ok(());
        }
        log.append(disk, &mut records)?;
        if batch.is_awaited() {
            disk.sync(&log.file)?;
            self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives the file up, and tries at once to write what is pending to a new one.
    fn break_down(&mut self, error: io::Error) -> Trouble {
        let failed = Trouble::new(WRITE, again(&error));
        self.log = None;
        self.trouble = Some(Trouble { retry: Instant::now(), ..Trouble::new(WRITE, error) });
        self.publish();
        self.mend_if_due();
        failed
    }

    fn mend_if_due(&mut self) {
        if self.trouble.as_ref().is_none_or(|it| Instant::now() < it.retry) {
            return;
        }
        let room = self.shared.live().reserved().saturating_add(ONE_MORE);
        let mended = match &mut self.log {
            Some(log) if log.position < MOST_LOG => log.make_room(self.disk.as_ref(), room),
            _ => self.anew(Space::Reserved),
        };
        self.trouble = mended.err().map(|error| {
            if !wants_space(&error) {
                self.log = None;
            }
            Trouble::new(WRITE, error)
        });
    }

    fn compact_if_long(&mut self) {
        let Some(position) = self.log.as_ref().map(|log| log.position) else { return };
        if position < self.compact_at {
            return;
        }
        if let Err(error) = self.anew(Space::Reserved) {
            // The old log is as good as it was, unless it lost its place.
            self.compact_at = position.saturating_add(STEP);
            if self.log.is_none() || position >= MOST_LOG {
                self.trouble = Some(Trouble::new(WRITE, error));
            }
        }
    }

    /// Writes what is pending to a new log.
    fn anew(&mut self, space: Space) -> io::Result<()> {
        let mut snapshot = Snapshot::of(&self.shared.live());
        let answered = mem::take(&mut snapshot.answered);
        let log = rewrite(self.disk.as_ref(), &self.dir, snapshot, space).map_err(|failed| {
            if failed.replaced {
                self.log = None;
            }
            failed.error
        })?;
        self.shared.syncs.fetch_add(2, Ordering::Relaxed);
        self.compact_at = COMPACT.max(log.position.saturating_mul(2));
        self.log = Some(log);
        let mut live = self.shared.live();
        for account in answered {
            live.logged(account);
        }
        Ok(())
    }

    fn close(mut self, closed: oneshot::Sender<()>) {
        // If it fails, what the old log holds is settled once more; health has told why.
        self.anew(Space::Bare).unwrap_or_else(drop);
        // The lock is free before anybody hears of it.
        drop(self);
        closed.send(()).unwrap_or(());
    }

    fn publish(&self) {
        let pending = self.shared.live().weight();
        let health = match &self.trouble {
            Some(trouble) => Err(format!("{}: {}", trouble.tell(&self.dir), trouble.error)),
            None if pending.saturating_add(ONE_MORE) > MOST_PENDING => {
                Err(JournalError::Full.to_string())
            }
            None => Ok(()),
        };
        self.health.send_if_modified(|told| {
            let changed = *told != health;
            *told = health;
            changed
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.health.send_modify(|told| *told = Err(JournalError::Closed.to_string()));
    }
}
