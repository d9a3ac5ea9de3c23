//! The entries that this instance has in hand, from their delivery to their acknowledgement.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::job::Entry;

/// Shared by the reader and the leases, who add, and the acknowledger, who removes.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeSet<Entry>>);

impl Held {
    pub(super) fn add(&self, entry: Entry) {
        self.lock().insert(entry);
    }

    pub(super) fn remove<'a>(&self, entries: impl Iterator<Item = &'a Entry>) {
        let mut held = self.lock();
        for entry in entries {
            held.remove(entry);
        }
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// As the scripts name them.
    pub(super) fn names(&self) -> Vec<String> {
        self.lock().iter().map(|it| format!("{}|{}", it.stream(), it.id)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
