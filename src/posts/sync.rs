//! Compares queued posts with what their accounts' documents hold, and gives them that.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::index::Print;
use super::{Keeper, PostsError};
use crate::bullmq::{Data, PostJob, Swapped};
use crate::domain::identity::AccountId;
use crate::domain::queued::{Copied, Current, Synced, bring_up};
use crate::events;

/// How often a post is read again that somebody else changes meanwhile. The next sweep looks at it
/// again.
const MOST_MISSES: u32 = 5;

/// How often in a row some post of an account was changed by somebody else.
pub(super) type Misses = BTreeMap<AccountId, u32>;

/// A pair, and the fingerprint by which it is told from others.
struct Pair {
    current: Current,
    print: Print,
}

impl Pair {
    fn new(current: Current) -> Self {
        let mut hasher = DefaultHasher::new();
        current.expose().hash(&mut hasher);
        // Never the smallest, which has a meaning of its own.
        Self { current, print: Print::MIN.saturating_add(hasher.finish().max(1)) }
    }
}

/// What a post's data calls for.
enum Call {
    /// Nothing more.
    End(Synced),
    /// To be written: as read, and new.
    Change(Vec<u8>, String),
}

impl Keeper {
    /// Compares the posts of these accounts, soonest first; then looks whether the accounts' access
    /// tokens last until the posts are due.
    pub(super) async fn sync(
        &self,
        accounts: &[AccountId],
        misses: &mut Misses,
    ) -> Result<(), PostsError> {
        if accounts.is_empty() {
            // A long sweep lets others work, too.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let documents = self.parts.store.some(accounts).await?;
        let pairs: BTreeMap<AccountId, Pair> =
            documents.iter().filter_map(|it| Some((it.id, Pair::new(Current::of(it)?)))).collect();
        let mut jobs = self.take_up(&pairs);
        jobs.sort_unstable();
        let jobs: Vec<PostJob> = jobs.into_iter().map(|(_, job)| job).collect();
        let mut told = BTreeMap::new();
        let compared = self.compare_all(&jobs, &pairs, (&mut told, misses)).await;
        // Also if only some could be.
        for (account, jobs) in told {
            events::posts_synced(account, jobs);
        }
        compared?;
        self.keep_margins(&documents).await
    }

    fn take_up(&self, pairs: &BTreeMap<AccountId, Pair>) -> Vec<(u64, PostJob)> {
        let mut state = self.shared.state();
        let mut old = Vec::new();
        for (account, pair) in pairs {
            old.extend(state.index.take_up(*account, pair.print));
        }
        old
    }

    async fn compare_all(
        &self,
        mut jobs: &[PostJob],
        pairs: &BTreeMap<AccountId, Pair>,
        (told, misses): (&mut BTreeMap<AccountId, u64>, &mut Misses),
    ) -> Result<(), PostsError> {
        let mut overtaken = BTreeMap::new();
        while !jobs.is_empty() {
            let read = self.parts.bullmq.read(jobs).await?;
            let (now, rest) = jobs.split_at_checked(read.len().max(1)).unwrap_or((jobs, &[]));
            jobs = rest;
            let mut changes = Vec::new();
            for (job, data) in now.iter().zip(read) {
                let Some(pair) = pairs.get(&job.id.account) else { continue };
                match call(data, pair) {
                    Call::End(synced) => self.ended(job, pair, synced),
                    Call::Change(before, after) => changes.push((*job, before, after)),
                }
            }
            let written: Vec<PostJob> = changes.iter().map(|(job, ..)| *job).collect();
            for (job, swapped) in written.iter().zip(self.parts.bullmq.swap(changes).await?) {
                let account = job.id.account;
                let Some(pair) = pairs.get(&account) else { continue };
                match swapped {
                    Swapped::Done => {
                        *told.entry(account).or_default() += 1;
                        self.ended(job, pair, Synced::Done);
                    }
                    Swapped::Gone => self.ended(job, pair, Synced::Gone),
                    Swapped::Missed => *overtaken.entry(account).or_default() += 1,
                }
            }
        }
        self.look_again(pairs, overtaken, misses);
        Ok(())
    }

    /// Whoever changed a post may have had a younger pair than we: the document is read again, too.
    fn look_again(
        &self,
        pairs: &BTreeMap<AccountId, Pair>,
        overtaken: BTreeMap<AccountId, u64>,
        misses: &mut Misses,
    ) {
        misses.retain(|account, _| overtaken.contains_key(account) || !pairs.contains_key(account));
        for (account, posts) in overtaken {
            let times = misses.entry(account).or_default();
            *times += 1;
            if *times > MOST_MISSES {
                misses.remove(&account);
                self.parts.syncs.count(Synced::Contended, posts);
            } else {
                self.again(&[account]);
            }
        }
    }

    fn ended(&self, job: &PostJob, pair: &Pair, synced: Synced) {
        self.parts.syncs.count(synced, 1);
        let mut state = self.shared.state();
        if synced == Synced::Gone {
            state.index.gone(job);
        } else {
            state.index.compared(job, pair.print);
        }
    }
}

fn call(data: Data, pair: &Pair) -> Call {
    let data = match data {
        Data::Raw(data) => data,
        Data::TooLarge => return Call::End(Synced::TooLarge),
        Data::Gone => return Call::End(Synced::Gone),
    };
    let Ok(text) = std::str::from_utf8(&data) else { return Call::End(Synced::Unreadable) };
    match bring_up(text, &pair.current) {
        Copied::Left(why) => Call::End(why.into()),
        Copied::New(new) => Call::Change(data, new),
    }
}
