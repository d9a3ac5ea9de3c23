//! The journal as a whole. What the tests share: entries, and a disk that fails on demand.

mod crash;
mod damage;
mod faults;
mod life;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::DateTime;
use serde_json::json;
use tempfile::TempDir;

use super::disk::Disk;
use super::{Journal, Opened};
use crate::domain::answer::Session;
use crate::domain::identity::AccountId;
use crate::domain::pending::{Intent, Pending};
use crate::domain::session::tests::token;
use crate::domain::session::{AccessJwt, Pair, RefreshJwt};

fn account(n: u8) -> AccountId {
    AccountId::from_bytes([n; 12])
}

fn jwt(jti: &str) -> String {
    token(
        &json!({"sub": "did:plc:a", "aud": "did:web:b.example", "jti": jti, "iat": 10, "exp": 20}),
    )
}

/// Account `n`'s call number `call`.
fn intent(n: u8, call: u32) -> Intent {
    Intent {
        account: account(n),
        service: "https://pds.example".parse().unwrap(),
        token: RefreshJwt::parse(&jwt(&format!("used-{n}-{call}"))).unwrap(),
        at: DateTime::from_timestamp_nanos(1_764_000_000_123_456_789 + i64::from(call)),
    }
}

/// What that call bought.
fn session(n: u8, call: u32) -> Session {
    Session {
        pair: Pair {
            access: AccessJwt::parse(&jwt(&format!("access-{n}-{call}"))).unwrap(),
            refresh: RefreshJwt::parse(&jwt(&format!("refresh-{n}-{call}"))).unwrap(),
        },
        did: format!("did:plc:{n}"),
        handle: "alice\"\n\u{e9}.test".to_owned(),
        account_status: (n % 2 == 1).then(|| "deactivated".to_owned()),
    }
}

/// All that an entry says, for comparison.
fn said(pending: &Pending) -> String {
    let Intent { account, service, token, at } = &pending.intent;
    let answer = pending.answer.as_ref().map(|it| {
        let (access, refresh) = (it.pair.access.expose(), it.pair.refresh.expose());
        (access, refresh, &it.did, &it.handle, &it.account_status)
    });
    format!("{account} {service} {} {at:?} {answer:?}", token.expose())
}

fn entry(n: u8, call: u32, answered: bool) -> String {
    said(&Pending { intent: intent(n, call), answer: answered.then(|| session(n, call)) })
}

fn all(opened: &Opened) -> Vec<String> {
    opened.pending.iter().map(said).collect()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A copy of the folder as it is: what a crash at this moment leaves.
fn crashed(dir: &Path) -> TempDir {
    let copy = folder();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Waits until the writer has done all that it was asked for.
async fn settle(journal: &Journal) {
    let probe = intent(255, 0);
    journal.intend(&probe).await.unwrap();
    journal.0.shared.live().end(probe.account, crate::domain::pending::End::Unsent);
    journal.0.shared.live().take_ends();
}

/// Waits for the health that is wanted.
async fn until_healthy(journal: &Journal, well: bool) {
    let mut health = journal.health();
    health.wait_for(|it| it.is_ok() == well).await.unwrap();
}

/// What a [`Faulty`] disk answers.
#[derive(Default)]
struct Faults {
    allocate: Option<i32>,
    write: Option<i32>,
    sync: Option<i32>,
    sync_all: Option<i32>,
    /// The end of what was written, and of what was synced, of the log in use. In bytes.
    written: u64,
    synced: u64,
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EROFS: i32 = 30;

/// A disk that is real until it is told to fail.
#[derive(Clone, Default)]
struct Faulty(Arc<Mutex<Faults>>);

impl Faulty {
    fn set(&self) -> MutexGuard<'_, Faults> {
        self.0.lock().unwrap()
    }
}

fn fail(errno: Option<i32>) -> io::Result<()> {
    errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

impl Disk for Faulty {
    fn allocate(&self, file: &File, from: u64, bytes: u64) -> io::Result<()> {
        fail(self.set().allocate)?;
        super::disk::Kernel.allocate(file, from, bytes)
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        // Half of it arrives.
        let failing = self.set().write;
        let arriving = if failing.is_some() { bytes.len() / 2 } else { bytes.len() };
        file.write_all_at(&bytes[..arriving], at)?;
        fail(failing)?;
        self.set().written = at + super::size(bytes.len());
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut faults = self.set();
        fail(faults.sync)?;
        faults.synced = faults.written;
        file.sync_data()
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        let mut faults = self.set();
        fail(faults.sync_all)?;
        faults.synced = faults.written;
        file.sync_all()
    }
}
