//! The journal: calls that may have happened and answers that are not yet known to be stored, on
//! this machine's disk, so that no crash loses a received pair.
//!
//! A folder with two files. `lock` is held by the one process that writes. `log` is appended to
//! by one [thread](writer), one fsync for all that wait, and replaced by a [new one](rewrite) that
//! holds what is pending only. What is pending is in [memory](live), too. [`mod@format`] is what the
//! log looks like; a reader takes no lock.
//!
//! After a failed write or fsync nobody knows what the file holds, so it is given up and memory
//! written to a new one.

mod batch;
mod damage;
mod disk;
mod error;
mod folder;
mod format;
mod live;
mod request;
mod rewrite;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::clock::Clock;
use crate::domain::answer::Session;
use crate::domain::identity::AccountId;
use crate::domain::pending::{End, Intent, Pending};

pub use damage::{Damage, Flaw};
use disk::{Disk, Kernel};
pub use error::JournalError;
use format::Contents;
use live::Live;
use request::{Done, Request};
use writer::Writer;

/// So many callers wait for the writer at most; more wait for a place.
const MOST_WAITING: usize = 1_024;
/// A reader that meets a write half done looks again, so often and after this long.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The journal of this process. Cheap to clone. The lock is released by [`close`](Self::close),
/// or some time after the last clone is dropped.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// `None`: it is [off](Journal::off).
    requests: Option<mpsc::Sender<Request>>,
    /// Bounds the requests.
    places: Arc<Semaphore>,
    health: watch::Receiver<Result<(), String>>,
}

/// What callers and the writer share.
struct Shared {
    live: Mutex<Live>,
    syncs: AtomicU64,
}

/// What a log says.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Every account's entry, by account.
    pub pending: Vec<Pending>,
    /// The pieces that were skipped, from the log's start to its end.
    pub damage: Vec<Damage>,
}

impl Journal {
    /// Takes the folder: creates it (0700) and its files (0600), takes the lock, reads what is
    /// pending and writes the log anew. A damaged log is kept beside it, as
    /// `log.damaged-<seconds since 1970>`; the last three are. One that merely ends in an incomplete
    /// write, as after a power cut, is kept as `log.torn` until the next such one.
    ///
    /// Blocks, for as long as the disk takes. Fails if another process has the folder, if the log
    /// is a newer version's or no journal (nothing is touched then), or if the disk refuses.
    pub fn open(dir: &Path) -> Result<(Self, Opened), JournalError> {
        Self::open_on(Box::new(Kernel), dir)
    }

    fn open_on(disk: Box<dyn Disk>, dir: &Path) -> Result<(Self, Opened), JournalError> {
        folder::create(dir)?;
        let lock = folder::lock(dir)?;
        let contents = folder::read(dir)?;
        if contents.damage.iter().any(|it| it.what != Flaw::TornTail) {
            folder::keep_damaged(dir, Clock::system().now())?;
        } else if !contents.damage.is_empty() {
            folder::keep_torn(dir)?;
        }
        let opened = Opened::from(&contents);
        let live = Mutex::new(Live::new(contents.pending));
        let shared = Arc::new(Shared { live, syncs: AtomicU64::new(0) });
        let (health, told) = watch::channel(Ok(()));
        let writer = Writer::new(dir, disk, Arc::clone(&shared), health, lock)?;
        let (requests, received) = mpsc::channel();
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(|error| JournalError::io(dir, "start the journal's thread", error))?;
        let places = Arc::new(Semaphore::new(MOST_WAITING));
        Ok((
            Self(Arc::new(Inner { shared, requests: Some(requests), places, health: told })),
            opened,
        ))
    }

    /// A journal that keeps nothing: with it a crash loses sessions. It is there for the benchmark,
    /// which measures the other kind against it, and no setting leads here.
    pub fn off() -> Self {
        let shared = Shared { live: Mutex::default(), syncs: AtomicU64::new(0) };
        let (requests, places) = (None, Arc::new(Semaphore::new(0)));
        let (_, health) = watch::channel(Ok(()));
        Self(Arc::new(Inner { shared: Arc::new(shared), requests, places, health }))
    }

    /// Reads without a lock and without changing anything, also while another process writes: what
    /// is pending is as of some moment during the call. There is nothing in a folder without a log.
    ///
    /// Blocks. Fails if there is no such folder, or as [`open`](Self::open) does.
    pub fn read(dir: &Path) -> Result<Opened, JournalError> {
        let mut contents = folder::read(dir)?;
        for _ in 1..LOOKS {
            if contents.damage.is_empty() {
                break;
            }
            #[expect(clippy::disallowed_methods, reason = "this call blocks, and says so")]
            thread::sleep(LOOK_AGAIN);
            contents = folder::read(dir)?;
        }
        Ok(Opened::from(&contents))
    }

    /// Fails if there is no journal in the folder, or no such folder.
    pub fn find(dir: &Path) -> Result<(), JournalError> {
        folder::find(dir)
    }

    /// Writes the intent, which replaces the account's entry if it has one. Returns once it is on
    /// stable storage, with room reserved for its answer.
    ///
    /// On an error the account's entry is as it was. The calls of one account wait for each other.
    pub async fn intend(&self, intent: &Intent) -> Result<(), JournalError> {
        let intent = Box::new(intent.clone());
        self.ask(|done| Request::Intent(intent, done)).await
    }

    /// Writes the answer to the account's intent. Returns once it is on stable storage.
    ///
    /// On an error the entry may be a mere intent on disk, but memory keeps the answer, and it is
    /// written as soon as the disk works again. [`JournalError::NoIntent`]: there is no entry, and
    /// nothing was kept.
    pub async fn answer(&self, account: AccountId, session: &Session) -> Result<(), JournalError> {
        if self.0.requests.is_some() && !self.0.shared.live().answer(account, session.clone()) {
            return Err(JournalError::NoIntent { account });
        }
        self.ask(|done| Request::Answer(account, done)).await
    }

    /// Gives the account's entry an earlier time. Does not wait and writes nothing: memory has it,
    /// and so has the next log that is written anew. A crash before that leaves the entry younger,
    /// which ends it later.
    pub fn backdate(&self, account: AccountId, at: DateTime<Utc>) {
        self.0.shared.live().backdate(account, at);
    }

    /// Ends the account's entry. Does not wait and needs no fsync of its own: an end that a crash
    /// forgets is found again by settling once more.
    pub fn end(&self, account: AccountId, how: End) {
        if self.0.shared.live().end(account, how)
            && let Some(requests) = &self.0.requests
        {
            // A closed journal has nothing to forget.
            drop(requests.send(Request::Ends));
        }
    }

    /// The account's entry.
    pub fn pending(&self, account: AccountId) -> Option<Pending> {
        self.0.shared.live().get(account).cloned()
    }

    /// Every account's entry, by account.
    pub fn all(&self) -> Vec<Pending> {
        self.0.shared.live().all().cloned().collect()
    }

    /// How many accounts have an entry.
    pub fn len(&self) -> usize {
        self.0.shared.live().len()
    }

    /// Whether no account has an entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether intents can be written: `Ok`, or why not, in one sentence that says what to do.
    pub fn health(&self) -> watch::Receiver<Result<(), String>> {
        self.0.health.clone()
    }

    /// How many fsyncs there were since the journal was opened.
    pub fn syncs(&self) -> u64 {
        self.0.shared.syncs.load(Ordering::Relaxed)
    }

    /// Writes what is left, writes the log anew, so that no spent token rests in it, and releases
    /// the lock. What is asked of the journal afterwards fails; memory can still be read.
    pub async fn close(&self) {
        let Some(requests) = &self.0.requests else { return };
        let (closed, done) = oneshot::channel();
        if requests.send(Request::Close(closed)).is_ok() {
            // Whoever closed it first is told; to the others it is gone.
            drop(done.await);
        }
    }

    async fn ask(&self, request: impl FnOnce(Done) -> Request) -> Result<(), JournalError> {
        let Some(requests) = &self.0.requests else { return Ok(()) };
        let closed = JournalError::Closed;
        let places = Arc::clone(&self.0.places);
        let Ok(place) = places.acquire_owned().await else { return Err(closed) };
        let (reply, result) = oneshot::channel();
        if requests.send(request(Done { reply, _place: place })).is_err() {
            return Err(closed);
        }
        result.await.map_or(Err(closed), |(result, _others)| result)
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let health = self.0.health.borrow();
        f.debug_struct("Journal").field("len", &self.len()).field("health", &*health).finish()
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<&Contents> for Opened {
    fn from(contents: &Contents) -> Self {
        let pending = contents.pending.values().cloned().collect();
        Self { pending, damage: contents.damage.clone() }
    }
}

/// The length of something in memory, in bytes of a file.
fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
