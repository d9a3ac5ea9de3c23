//! The log file that is written to, and the few calls it makes of the kernel.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::size;

/// Space is taken from the disk in steps of this many bytes.
pub(super) const STEP: u64 = 1_024 * 1_024;

/// The kernel, or in tests one that fails on demand.
pub(super) trait Disk: Send + 'static {
    /// Takes space for `bytes` bytes from offset `from`, which read as zeros.
    fn allocate(&self, file: &File, from: u64, bytes: u64) -> io::Result<()> {
        loop {
            match fallocate(file, FallocateFlags::empty(), from, bytes) {
                Err(Errno::INTR) => {}
                // The file system cannot: what is written takes space, too.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return zeros(file, from, bytes),
                done => return done.map_err(Into::into),
            }
        }
    }

    /// Writes all the bytes at an offset.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    /// Waits until the file's bytes are on stable storage.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Waits until a file, or a folder, is on stable storage with all that the system keeps of it.
    fn sync_all(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }
}

/// The kernel itself.
pub(super) struct Kernel;

impl Disk for Kernel {}

/// Takes space by writing it.
pub(super) fn zeros(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 64 * 1_024];
    let (mut at, end) = (from, from.saturating_add(bytes));
    while at < end {
        let chunk = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        let chunk = zeros.get(..chunk).unwrap_or_default();
        file.write_all_at(chunk, at)?;
        at += size(chunk.len());
    }
    Ok(())
}

/// The log, open for writing.
pub(super) struct Log {
    pub(super) file: File,
    /// Where the next record goes, in bytes.
    pub(super) position: u64,
    /// How many bytes have their space on the disk.
    pub(super) allocated: u64,
}

impl Log {
    /// Whether `bytes` more have their space, and the zero byte that ends the log.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.position.saturating_add(bytes) < self.allocated
    }

    /// Takes space for `bytes` more bytes, and some ahead if the disk has it.
    pub(super) fn make_room(&mut self, disk: &dyn Disk, bytes: u64) -> io::Result<()> {
        if self.has_room(bytes) {
            return Ok(());
        }
        let end = self.position.saturating_add(bytes).saturating_add(1);
        let mut allocate = |end: u64| {
            disk.allocate(&self.file, self.allocated, end - self.allocated)?;
            self.allocated = end;
            Ok(())
        };
        allocate(end.next_multiple_of(STEP)).or_else(|_ahead: io::Error| allocate(end))
    }

    /// Writes records behind the last one, and the zero byte that ends the log.
    pub(super) fn append(&mut self, disk: &dyn Disk, records: &mut Vec<u8>) -> io::Result<()> {
        let length = size(records.len());
        records.push(0);
        disk.write(&self.file, records, self.position)?;
        self.position += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_taken_without_touching_what_is_there() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        zeros(&file, 3, 100_000).unwrap();
        Kernel.allocate(&file, 100_003, 5_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 105_003);
        let mut bytes = vec![1; 105_003];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.starts_with(b"abc") && bytes[3..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn room_is_made_in_steps() {
        let file = tempfile::tempfile().unwrap();
        let mut log = Log { file, position: 0, allocated: 0 };
        assert!(!log.has_room(0));
        log.make_room(&Kernel, 10).unwrap();
        assert_eq!(log.allocated, STEP);
        assert!(log.has_room(STEP - 1) && !log.has_room(STEP));
        log.append(&Kernel, &mut b"abc".to_vec()).unwrap();
        assert_eq!(log.position, 3);
        log.make_room(&Kernel, STEP).unwrap();
        assert_eq!((log.allocated, log.file.metadata().unwrap().len()), (2 * STEP, 2 * STEP));
    }
}
