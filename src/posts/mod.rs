//! Keeps the tokens that queued posts carry up to date. A post that was scheduled days ago is sent
//! with the pair that its account had then, which the first refresh since has spent.
//!
//! An index in memory knows which account has which posts queued: from a look at all of the queues,
//! and from their events after it. When an account's pair has changed, each of its posts is compared
//! with what the *document* holds, and given that by compare-and-set. So it does not matter who
//! changed the pair, who notices, how often, or what was lost on the way: a sweep over the index
//! finds it again. An account without queued posts costs one look into the index.

mod agenda;
mod index;
mod listen;
mod margins;
mod sync;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::bullmq::{BullMq, BullMqError};
use crate::clock::Clock;
use crate::domain::identity::AccountId;
use crate::domain::renewal::Lead;
use crate::events::{PostSyncs, Trouble};
use crate::queue::{Queue, QueueError};
use crate::store::{Store, StoreError};

use agenda::Agenda;
use index::Index;

/// All posts are looked at this often: for what another instance has left undone, or lost. It is far
/// within the two hours in which a spent token can still be used.
const SWEEP_EVERY: Duration = Duration::from_mins(15);

/// After an error.
const PAUSE: Duration = Duration::from_secs(1);

/// How long what is left to do may take after the drain.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Accounts that are worked on together.
const TOGETHER: usize = 64;

/// Why posts could not be looked at. They will be.
#[derive(Debug, thiserror::Error)]
enum PostsError {
    /// MongoDB did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The application's queues cannot be used.
    #[error(transparent)]
    BullMq(#[from] BullMqError),
    /// Ours cannot.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Where word of a changed pair is left. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Posts(Option<Arc<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    /// Accounts whose posts are to be compared, the one with the soonest post first.
    todo: Agenda,
    /// Accounts whose access token is to be looked at, by when.
    alarms: Agenda,
    sweep: Sweep,
}

/// How far a look at all accounts with posts has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    #[default]
    Over,
    Begins,
    After((u64, AccountId)),
}

impl Posts {
    /// Nobody keeps posts up to date: word is not listened to.
    pub fn off() -> Self {
        Self(None)
    }

    /// Word is kept for a [`Keeper`].
    pub fn on() -> Self {
        Self(Some(Arc::default()))
    }

    /// The account's document holds another pair than before. Costs next to nothing, and waits for
    /// nothing.
    pub fn rotated(&self, account: AccountId) {
        let Some(shared) = &self.0 else { return };
        let mut state = shared.state();
        if let Some(due) = state.index.soonest(account) {
            state.todo.set_sooner(account, due);
            drop(state);
            shared.woken.notify_one();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whose posts are to be looked at now. A sweep always comes on a little.
    fn take(&mut self, now: u64) -> Vec<AccountId> {
        for account in self.alarms.take(now, TOGETHER) {
            self.todo.set_sooner(account, now);
        }
        let after = match self.sweep {
            Sweep::Over => return self.todo.take(u64::MAX, TOGETHER),
            Sweep::Begins => None,
            Sweep::After(place) => Some(place),
        };
        let mut some = self.todo.take(u64::MAX, TOGETHER / 2);
        let (page, last) = self.index.page(after, TOGETHER - some.len());
        self.sweep = last.map_or(Sweep::Over, Sweep::After);
        some.extend(page);
        some
    }

    fn is_idle(&self) -> bool {
        self.todo.first().is_none()
    }
}

/// What a keeper works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The application's queues.
    pub bullmq: BullMq,
    /// The accounts.
    pub store: Store,
    /// Where an account is asked to be refreshed before its post is due.
    pub queue: Queue,
    /// `REFRESH_LEAD`, or the usual one with `KEEP_FRESH=false`.
    pub lead: Lead,
    /// The time.
    pub clock: Clock,
    /// What came of it.
    pub syncs: PostSyncs,
}

/// Keeps the queued posts of one instance's index up to date.
#[derive(Debug)]
pub struct Keeper {
    parts: Parts,
    shared: Arc<Shared>,
    deaf: Trouble,
    held_up: Trouble,
}

impl Keeper {
    /// A keeper that listens to the word that is left with `posts`; `None`: nobody is to.
    pub fn new(parts: Parts, posts: &Posts) -> Option<Self> {
        let shared = Arc::clone(posts.0.as_ref()?);
        let (begun, over) =
            ("the queues of posts cannot be read", "the queues of posts are read again");
        let deaf = Trouble::new("posts.deaf", begun, over);
        let (begun, over) =
            ("queued posts cannot be given new tokens", "queued posts get new tokens again");
        let held_up = Trouble::new("posts.held_up", begun, over);
        Some(Self { parts, shared, deaf, held_up })
    }

    /// Works until `end`; what is left to do by then may take a moment.
    pub async fn run(self, end: CancellationToken) {
        let late = async {
            end.cancelled().await;
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = self.work(&end) => {}
            never = self.listen() => never,
            () = late => {}
        }
    }

    async fn work(&self, end: &CancellationToken) {
        let mut misses = sync::Misses::new();
        let mut next_sweep = Instant::now() + SWEEP_EVERY;
        loop {
            if end.is_cancelled() && self.shared.state().is_idle() {
                return;
            }
            if next_sweep <= Instant::now() {
                next_sweep = Instant::now() + SWEEP_EVERY;
                self.shared.state().sweep = Sweep::Begins;
            }
            let some = self.shared.state().take(self.now());
            if some.is_empty() && self.shared.state().sweep == Sweep::Over {
                let wait = self.rest().min(next_sweep.saturating_duration_since(Instant::now()));
                tokio::select! {
                    () = self.shared.woken.notified() => {}
                    () = sleep(wait) => {}
                    () = end.cancelled() => {}
                }
                continue;
            }
            match self.sync(&some, &mut misses).await {
                Ok(()) => self.held_up.over(),
                Err(error) => {
                    self.held_up.met(&error);
                    self.again(&some);
                    sleep(PAUSE).await;
                    self.parts.bullmq.wait_up().await;
                }
            }
        }
    }

    /// How long nothing is to be done, as far as is known.
    fn rest(&self) -> Duration {
        let first = self.shared.state().alarms.first();
        first.map_or(SWEEP_EVERY, |at| Duration::from_millis(at.saturating_sub(self.now())))
    }

    /// These are to be looked at once more.
    fn again(&self, accounts: &[AccountId]) {
        let mut state = self.shared.state();
        for account in accounts {
            if let Some(due) = state.index.soonest(*account) {
                state.todo.set_sooner(*account, due);
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.parts.clock.now().timestamp_millis()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bullmq::PostJob;
    use crate::domain::queued::PostId;

    fn account(n: u8) -> AccountId {
        AccountId::from_bytes([n; 12])
    }

    /// So many accounts with two posts each, the first of which is due at the account's number.
    fn state(accounts: u8) -> State {
        let mut state = State::default();
        for n in 1..=accounts {
            for ms in [0, 500] {
                let id = PostId { account: account(n), user: account(0), ms };
                assert!(state.index.add(PostJob::new(0, id), |_new| u64::from(n) + ms));
            }
        }
        state
    }

    #[test]
    fn a_sweep_comes_by_every_account_soonest_first() {
        let mut state = state(200);
        assert_eq!(state.take(0), [], "nothing is to be done");
        state.sweep = Sweep::Begins;
        let mut seen = Vec::new();
        while state.sweep != Sweep::Over {
            let some = state.take(0);
            assert!(some.len() <= TOGETHER);
            seen.extend(some);
        }
        assert_eq!(seen, (1..=200).map(account).collect::<Vec<_>>());
        assert_eq!(state.take(0), []);
    }

    #[test]
    fn word_of_a_new_pair_goes_before_a_sweep_and_does_not_stop_it() {
        let mut state = state(200);
        state.sweep = Sweep::Begins;
        for n in 150..=199 {
            state.todo.set_sooner(account(n), u64::from(n));
        }
        let some = state.take(0);
        assert_eq!(some.len(), TOGETHER);
        assert_eq!((some[0], some[TOGETHER / 2]), (account(150), account(1)));
        // An alarm, too, once its time has come.
        state.alarms.set(account(200), 10);
        assert!(!state.take(9).contains(&account(200)));
        assert_eq!(state.take(10).first(), Some(&account(200)));
    }

    #[test]
    fn word_is_kept_of_accounts_with_posts_only() {
        let posts = Posts::on();
        posts.rotated(account(1));
        let shared = posts.0.as_ref().unwrap();
        assert!(shared.state().is_idle());
        *shared.state() = state(3);
        for n in [3, 1, 9, 3] {
            posts.rotated(account(n));
        }
        assert_eq!(shared.state().take(0), [account(1), account(3)]);
        Posts::off().rotated(account(1));
    }
}
