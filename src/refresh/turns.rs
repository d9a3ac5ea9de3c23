//! One attempt per account at a time within this process, whoever asked for it.
//!
//! The queue's claim sees to that as long as Redis remembers it; the journal has one entry an
//! account, and needs it always.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::domain::identity::AccountId;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Who has, or waits for, a turn.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<AccountId, Lock>>);

/// One account's turn, from when it is waited for until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    account: AccountId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the account's turn.
    pub(super) async fn take(&self, account: AccountId) -> Turn<'_> {
        let lock = Arc::clone(self.locks().entry(account).or_default());
        let mut turn = Turn { turns: self, account, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// Whether anybody has, or waits for, the account's turn.
    pub(super) fn is_taken(&self, account: AccountId) -> bool {
        self.locks().contains_key(&account)
    }

    fn locks(&self) -> MutexGuard<'_, BTreeMap<AccountId, Lock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut locks = self.turns.locks();
        self.guard = None;
        // Nobody else holds it or waits for it: they would have a copy of their own.
        if locks.get(&self.account).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn an_account_has_one_turn_at_a_time_and_leaves_nothing_behind() {
        let turns = Turns::default();
        let (one, two) = (AccountId::from_bytes([1; 12]), AccountId::from_bytes([2; 12]));
        let first = turns.take(one).await;
        let other = turns.take(two).await;
        let mut second = Box::pin(turns.take(one));
        assert!(second.as_mut().now_or_never().is_none(), "one has a turn already");
        let abandoned = Box::pin(turns.take(one));
        drop((abandoned, other));
        assert!(turns.is_taken(one) && !turns.is_taken(two));
        drop(first);
        drop(second.await);
        assert!(turns.locks().is_empty());
    }
}
