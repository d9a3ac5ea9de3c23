//! What is pending, in memory: the truth while the daemon runs, of which the log is the copy that
//! outlives it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::size;
use crate::domain::answer::Session;
use crate::domain::identity::AccountId;
use crate::domain::pending::{End, Intent, Pending};

/// Room in the log for what is no token: names, times, the frame. In bytes.
const AROUND: u64 = 4 * 1_024;

/// The entries, with what they weigh.
#[derive(Default)]
pub(super) struct Live {
    entries: BTreeMap<AccountId, Entry>,
    /// Ends that are not in the log yet.
    ends: Vec<(AccountId, End)>,
    weight: u64,
    reserved: u64,
}

struct Entry {
    pending: Pending,
    /// What it takes of the log at most, in bytes.
    weight: u64,
    /// What its answer may still need of the log, in bytes; 0 once that is there.
    reserve: u64,
}

/// Room for an answer to a call: the used token and two of about its length, and one to spare.
pub(super) fn reserve(intent: &Intent) -> u64 {
    4 * size(intent.token.expose().len()) + AROUND
}

/// What an intent weighs with room for its answer, in bytes.
pub(super) fn weight(intent: &Intent) -> u64 {
    size(intent.token.expose().len()) + AROUND + reserve(intent)
}

fn answered_weight(intent: &Intent, session: &Session) -> u64 {
    let Session { pair, did, handle, account_status } = session;
    let status = account_status.as_ref().map_or(0, String::len);
    let names = size(did.len() + handle.len() + status);
    let tokens = pair.access.expose().len() + pair.refresh.expose().len();
    weight(intent).max(size(tokens + intent.token.expose().len()) + names + AROUND)
}

impl Live {
    pub(super) fn new(pending: BTreeMap<AccountId, Pending>) -> Self {
        let mut live = Self::default();
        for pending in pending.into_values() {
            live.put(pending);
        }
        live
    }

    /// What all entries weigh, in bytes.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// What answers may still need of the log, in bytes.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// What the account's entry weighs, in bytes.
    pub(super) fn weight_of(&self, account: AccountId) -> u64 {
        self.entries.get(&account).map_or(0, |entry| entry.weight)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, account: AccountId) -> Option<&Pending> {
        self.entries.get(&account).map(|entry| &entry.pending)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Pending> {
        self.entries.values().map(|entry| &entry.pending)
    }

    /// Takes an entry in, in the place of the one that the account has.
    pub(super) fn put(&mut self, pending: Pending) {
        let account = pending.intent.account;
        self.remove(account);
        let reserve = reserve(&pending.intent);
        let weight = match &pending.answer {
            None => weight(&pending.intent),
            Some(session) => answered_weight(&pending.intent, session),
        };
        self.weight += weight;
        self.reserved += reserve;
        self.entries.insert(account, Entry { pending, weight, reserve });
    }

    /// Keeps an answer. `false`: there is no call that it could answer.
    pub(super) fn answer(&mut self, account: AccountId, session: Session) -> bool {
        let Some(entry) = self.entries.get_mut(&account) else { return false };
        self.weight -= entry.weight;
        entry.weight = answered_weight(&entry.pending.intent, &session);
        self.weight += entry.weight;
        entry.pending.answer = Some(session);
        true
    }

    /// Makes an entry older than it says; never younger.
    pub(super) fn backdate(&mut self, account: AccountId, at: DateTime<Utc>) {
        if let Some(entry) = self.entries.get_mut(&account) {
            entry.pending.intent.at = entry.pending.intent.at.min(at);
        }
    }

    /// The account's answer stands in the log: it needs no more room.
    pub(super) fn logged(&mut self, account: AccountId) {
        if let Some(entry) = self.entries.get_mut(&account) {
            self.reserved -= entry.reserve;
            entry.reserve = 0;
        }
    }

    /// Ends an entry. `true`: the writer has to be told, for this is the first end since it came.
    pub(super) fn end(&mut self, account: AccountId, how: End) -> bool {
        if !self.remove(account) {
            return false;
        }
        self.ends.push((account, how));
        self.ends.len() == 1
    }

    /// The ends since this was last asked.
    pub(super) fn take_ends(&mut self) -> Vec<(AccountId, End)> {
        std::mem::take(&mut self.ends)
    }

    fn remove(&mut self, account: AccountId) -> bool {
        let Some(entry) = self.entries.remove(&account) else { return false };
        self.weight -= entry.weight;
        self.reserved -= entry.reserve;
        true
    }
}
