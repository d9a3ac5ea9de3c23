//! The process that had `STATE_DIR` before this one: whoever holds the journal's lock knows that it
//! is gone, and need not wait until its last sign of life is over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::queue::Queue;

/// The longest name that is read, in bytes; none of ours gets near it.
const MOST: u64 = 1_024;

/// Puts back the jobs that the last process of this folder had in hand, and leaves the name of this
/// one for the next. Nothing here stops the start: the jobs come back all the same, in ten seconds.
pub(super) async fn bury(dir: &Path, queue: &Queue) {
    let (path, name) = (dir.join("instance"), queue.instance().to_owned());
    let exchanged = tokio::task::spawn_blocking(move || exchange(&path, &name)).await;
    let former = match exchanged.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(former) => former,
        Err(error) => {
            tracing::debug!(%error, "the last process of STATE_DIR is not known");
            return;
        }
    };
    match queue.bury(&former).await {
        Ok(0) => {}
        Ok(jobs) => tracing::warn!(
            event = "queue.recovered",
            jobs,
            "put back the jobs that the last process had in hand when it ended"
        ),
        Err(error) => tracing::debug!(%error, "its jobs come back when its sign of life is over"),
    }
}

/// Puts `name` into the file; answers what was in it.
fn exchange(path: &PathBuf, name: &str) -> io::Result<String> {
    let mut former = String::new();
    match File::open(path) {
        Ok(file) => drop(file.take(MOST).read_to_string(&mut former)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Whole or not at all: half a name is nobody's.
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(name.as_bytes())?;
    fs::rename(new, path)?;
    Ok(former.trim().to_owned())
}
