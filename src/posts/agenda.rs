//! Accounts that something is to be done for, each once, in the order of a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::identity::AccountId;

/// Accounts in the order of a time in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    order: BTreeSet<(u64, AccountId)>,
    times: BTreeMap<AccountId, u64>,
}

impl Agenda {
    /// Puts an account at a time, wherever it was before.
    pub(super) fn set(&mut self, account: AccountId, at: u64) {
        self.remove(account);
        self.order.insert((at, account));
        self.times.insert(account, at);
    }

    /// The same, unless it is there with an earlier time.
    pub(super) fn set_sooner(&mut self, account: AccountId, at: u64) {
        if self.times.get(&account).is_none_or(|before| at < *before) {
            self.set(account, at);
        }
    }

    /// Takes an account off.
    pub(super) fn remove(&mut self, account: AccountId) {
        if let Some(at) = self.times.remove(&account) {
            self.order.remove(&(at, account));
        }
    }

    /// Takes the first ones, up to `most`, whose time is not after `until`.
    pub(super) fn take(&mut self, until: u64, most: usize) -> Vec<AccountId> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((_, account)) = self.order.first().copied().filter(|(at, _)| *at <= until)
        {
            self.remove(account);
            taken.push(account);
        }
        taken
    }

    /// The time of the first one.
    pub(super) fn first(&self) -> Option<u64> {
        self.order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_come_first_and_once() {
        let account = |n| AccountId::from_bytes([n; 12]);
        let mut agenda = Agenda::default();
        for (n, at) in [(1, 30), (2, 20), (3, 10), (1, 5), (2, 40)] {
            agenda.set_sooner(account(n), at);
        }
        assert_eq!(agenda.first(), Some(5));
        assert_eq!(agenda.take(10, 9), [account(1), account(3)]);
        agenda.set(account(2), 50);
        agenda.set(account(3), 60);
        assert_eq!((agenda.take(49, 9), agenda.first()), (vec![], Some(50)));
        agenda.remove(account(2));
        assert_eq!(agenda.take(u64::MAX, 9), [account(3)]);
        assert_eq!(agenda.take(u64::MAX, 9), []);
    }
}
