//! Writing the log anew: what is pending and nothing else, in a new file that takes the old one's
//! place. A crash at any moment leaves one or the other.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use secrecy::zeroize::Zeroizing;

use super::disk::{Disk, Log, STEP};
use super::folder;
use super::format::{self, HEADER, TooLong};
use super::live::Live;
use super::size;
use crate::domain::identity::AccountId;

/// How much space is taken from the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// Room for every answer, and some ahead.
    Reserved,
    /// No more than is written: nothing will be added.
    Bare,
}

/// Why there is no new log.
pub(super) struct Failed {
    pub(super) error: io::Error,
    /// Whether the old log may have lost its place: then it must not be written any more.
    pub(super) replaced: bool,
}

/// What is pending, as a log.
pub(super) struct Snapshot {
    bytes: Zeroizing<Vec<u8>>,
    reserved: u64,
    /// The accounts whose answers it holds.
    pub(super) answered: Vec<AccountId>,
}

impl Snapshot {
    pub(super) fn of(live: &Live) -> Self {
        let mut bytes = Zeroizing::new(HEADER.to_vec());
        let mut answered = Vec::new();
        for pending in live.all() {
            let intent = &pending.intent;
            let written = match &pending.answer {
                None => format::write_intent(intent, &mut bytes),
                Some(session) => format::write_answer(intent, session, &mut bytes)
                    .inspect(|()| answered.push(intent.account))
                    // Longer than anything that was read from a server: keep the call at least.
                    .or_else(|TooLong| format::write_intent(intent, &mut bytes)),
            };
            // An intent that is too long was never let in.
            debug_assert_eq!(written, Ok(()), "an entry that cannot be written");
        }
        Self { bytes, reserved: live.reserved(), answered }
    }
}

/// Puts a snapshot in the log's place. Two syncs: the file, and the folder.
pub(super) fn rewrite(
    disk: &dyn Disk,
    dir: &Path,
    mut snapshot: Snapshot,
    space: Space,
) -> Result<Log, Failed> {
    let failed = |replaced| move |error| Failed { error, replaced };
    let (log, path) = write(disk, dir, &mut snapshot, space).map_err(failed(false))?;
    fs::rename(&path, folder::log(dir))
        .and_then(|()| disk.sync_all(&File::open(dir)?))
        .map_err(failed(true))?;
    Ok(log)
}

fn write(
    disk: &dyn Disk,
    dir: &Path,
    snapshot: &mut Snapshot,
    space: Space,
) -> io::Result<(Log, std::path::PathBuf)> {
    let (file, path) = folder::new_log(dir)?;
    let mut log = Log { file, position: 0, allocated: 0 };
    let bare = size(snapshot.bytes.len());
    let written = match space {
        Space::Bare => Ok(()),
        Space::Reserved => {
            let needed = bare.saturating_add(snapshot.reserved);
            log.make_room(disk, needed.saturating_add(STEP))
                .or_else(|_ahead| log.make_room(disk, needed))
        }
    }
    .and_then(|()| log.append(disk, &mut snapshot.bytes))
    .and_then(|()| disk.sync_all(&log.file));
    // Half a log is of no use, and on a full disk its space is.
    written.inspect_err(|_error| drop(fs::remove_file(&path)))?;
    log.allocated = log.allocated.max(bare + 1);
    Ok((log, path))
}
