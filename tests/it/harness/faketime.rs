//! A wall clock of a daemon's own that jumps, by libfaketime. Its monotonic clock goes on.

use std::time::Duration;

use tempfile::TempDir;

use super::part;

/// The clock of whoever is started with its [settings](Self::settings).
pub(crate) struct WallClock {
    folder: TempDir,
}

impl WallClock {
    /// One that goes right.
    pub(crate) fn right() -> Self {
        let clock = Self { folder: TempDir::new().expect("a temporary folder") };
        clock.ahead(Duration::ZERO);
        clock
    }

    /// What a daemon is started with, beside its own settings.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let file = self.file().to_str().expect("a path that is a text").to_owned();
        [
            ("LD_PRELOAD", part("REFRESHD_FAKETIME")),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// From now on it is so much ahead.
    pub(crate) fn ahead(&self, by: Duration) {
        self.set('+', by);
    }

    /// From now on it is so much behind.
    pub(crate) fn behind(&self, by: Duration) {
        self.set('-', by);
    }

    /// In one step: a file that is half written would be another time.
    fn set(&self, sign: char, by: Duration) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, format!("{sign}{}", by.as_secs())).expect("a file");
        std::fs::rename(next, self.file()).expect("a file in its place");
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("offset")
    }
}
