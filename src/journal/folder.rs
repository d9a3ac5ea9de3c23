//! The journal's folder: its lock, its log, and logs that were damaged.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use secrecy::zeroize::Zeroizing;

use super::error::JournalError;
use super::format::{self, Contents, NotRead};

/// Files are their owner's alone.
pub(super) const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// So many damaged logs are kept.
const MOST_DAMAGED: usize = 3;
const DAMAGED: &str = "log.damaged-";
/// The longest log that is read, in bytes; none that is written gets near it.
const MOST_READ: u64 = 256 * 1_024 * 1_024;

/// Where the log is.
pub(super) fn log(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// Creates the folder, and those above it, if they are not there; one that is stays as it is.
pub(super) fn create(dir: &Path) -> Result<(), JournalError> {
    let fail = |source| JournalError::io(dir, "create the journal's folder", source);
    let missing: Vec<_> =
        dir.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(dir).map_err(fail)?;
    // A folder is there for good when the one above it says so.
    for made in missing {
        let above = made.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(above.unwrap_or(Path::new("."))).and_then(|it| it.sync_all()).map_err(fail)?;
    }
    Ok(())
}

/// Whether there is a log, which every journal has.
pub(super) fn find(dir: &Path) -> Result<(), JournalError> {
    let fail = |source| JournalError::io(dir, "read the journal", source);
    fs::read_dir(dir).map_err(fail)?;
    match fs::metadata(log(dir)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(JournalError::None { dir: dir.to_owned() })
        }
        Err(error) => Err(fail(error)),
    }
}

/// Takes the lock, which lasts as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, JournalError> {
    let fail = |source| JournalError::io(dir, "lock the journal", source);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let mut file = options.open(dir.join("lock")).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = (&file).take(32).read_to_string(&mut pid);
            let pid = read.ok().and_then(|_bytes| pid.trim().parse().ok());
            return Err(JournalError::Locked { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(fail(source)),
    }
    let mut own = || -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    // The id is for a message: a full disk keeps nobody from the lock.
    own().or_else(
        |error| if super::error::wants_space(&error) { Ok(()) } else { Err(fail(error)) },
    )?;
    Ok(file)
}

/// Reads the log; there is nothing in it if there is none.
pub(super) fn read(dir: &Path) -> Result<Contents, JournalError> {
    let fail = |source| JournalError::io(dir, "read the journal", source);
    let foreign = || JournalError::Foreign { dir: dir.to_owned() };
    let file = match File::open(log(dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::read_dir(dir).map_err(fail)?;
            // A fresh log has its first line, and its end.
            return Ok(Contents::default());
        }
        Err(error) => return Err(fail(error)),
    };
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() || metadata.len() > MOST_READ {
        return Err(foreign());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    bytes
        .try_reserve(usize::try_from(metadata.len()).unwrap_or(0))
        .map_err(|error| fail(error.into()))?;
    file.take(MOST_READ).read_to_end(&mut bytes).map_err(fail)?;
    format::read(&bytes).map_err(|not| match not {
        NotRead::Foreign => foreign(),
        NotRead::Newer(found) => {
            JournalError::Version { dir: dir.to_owned(), found, known: format::KNOWN }
        }
    })
}

/// Keeps the log, whose end is an incomplete write, beside the one that is going to replace it. It
/// takes no damaged log's place: crashes are more frequent than damage.
pub(super) fn keep_torn(dir: &Path) -> Result<(), JournalError> {
    let torn = dir.join("log.torn");
    match fs::remove_file(&torn) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(JournalError::io(dir, "replace the torn journal", error))
        }
        _ => keep(dir, &torn),
    }
}

/// Keeps the log, which is damaged, beside the one that is going to replace it. Only the last
/// few are kept.
pub(super) fn keep_damaged(dir: &Path, now: DateTime<Utc>) -> Result<(), JournalError> {
    let fail = |source| JournalError::io(dir, "keep the damaged journal", source);
    let free = (now.timestamp()..i64::MAX)
        .map(|seconds| dir.join(format!("{DAMAGED}{seconds}")))
        .find(|path| fs::symlink_metadata(path).is_err())
        .unwrap_or_else(|| dir.join(DAMAGED));
    keep(dir, &free)?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let seconds = name.to_str().and_then(|name| name.strip_prefix(DAMAGED));
        kept.extend(seconds.and_then(|it| it.parse::<i64>().ok()));
    }
    kept.sort_unstable();
    let superfluous = kept.len().saturating_sub(MOST_DAMAGED);
    for seconds in kept.into_iter().take(superfluous) {
        fs::remove_file(dir.join(format!("{DAMAGED}{seconds}"))).map_err(fail)?;
    }
    Ok(())
}

fn keep(dir: &Path, path: &Path) -> Result<(), JournalError> {
    fs::hard_link(log(dir), path)
        .or_else(|_links| fs::copy(log(dir), path).map(|_bytes| ()))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(FILE_MODE)))
        .and_then(|()| File::open(path)?.sync_all())
        .map_err(|source| JournalError::io(dir, "keep the damaged journal", source))
}

/// A new file that is going to be the log; one that a crash left behind is removed.
pub(super) fn new_log(dir: &Path) -> io::Result<(File, PathBuf)> {
    let path = dir.join("log.new");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
    Ok((file, path))
}
