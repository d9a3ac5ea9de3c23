//! Which account has which posts queued, and in which order they are due. In memory, small, bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::ops::{Bound, RangeInclusive};

use crate::bullmq::PostJob;
use crate::domain::identity::AccountId;
use crate::domain::queued::PostId;

/// The most posts that are kept: 130 MB.
pub(super) const MOST: usize = 1_000_000;

/// A post that is known to be queued, and not when it is due.
pub(super) const SOME_TIME: u64 = u64::MAX;

/// Posts of one account that are looked at to tell its first one: with very many, it may come more
/// than once.
const LOOKED_AT: usize = 64;

/// A fingerprint of the pair that a post was last compared with. None is as [`IN_HAND`].
pub(super) type Print = NonZeroU64;

/// Stands for a comparison that is under way.
const IN_HAND: Print = Print::MIN;

/// What is known of a queued post.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// In milliseconds since 1970.
    due: u64,
    compared: Option<Print>,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By account, for that is what the names are ordered by.
    posts: BTreeMap<PostJob, Known>,
    /// One entry for all posts of an account that are due at the same time.
    by_due: BTreeSet<(u64, AccountId)>,
    /// Posts that found no room.
    left_out: u64,
}

impl Index {
    /// A post is queued, and to be compared. `due` says when it is due, seeing what was known of
    /// that. `false`: there is no room for it.
    pub(super) fn add(&mut self, job: PostJob, due: impl FnOnce(Option<u64>) -> u64) -> bool {
        let before = self.posts.get(&job).map(|known| known.due);
        if before.is_none() && self.posts.len() >= MOST {
            self.left_out += 1;
            return false;
        }
        let account = job.id.account;
        let due = due(before);
        self.posts.insert(job, Known { due, compared: None });
        if let Some(before) = before.filter(|before| *before != due) {
            self.forget_due(before, account);
        }
        self.by_due.insert((due, account));
        true
    }

    /// A post is queued no more.
    pub(super) fn remove(&mut self, job: &PostJob) {
        if let Some(known) = self.posts.remove(job) {
            self.forget_due(known.due, job.id.account);
        }
    }

    fn forget_due(&mut self, due: u64, account: AccountId) {
        if !self.of(account).any(|(_, known)| known.due == due) {
            self.by_due.remove(&(due, account));
        }
    }

    /// An account's posts that were not compared with this pair, and when they are due. They are in
    /// hand then: until they were [compared](Self::compared), or found [gone](Self::gone).
    pub(super) fn take_up(
        &mut self,
        account: AccountId,
        with: Print,
    ) -> impl Iterator<Item = (u64, PostJob)> {
        let old = self.posts.range_mut(all_of(account));
        old.filter(move |(_, known)| known.compared != Some(with)).map(|(job, known)| {
            known.compared = Some(IN_HAND);
            (known.due, *job)
        })
    }

    /// It was compared with the pair of that fingerprint; unless it was queued again meanwhile.
    pub(super) fn compared(&mut self, job: &PostJob, with: Print) {
        let known = self.posts.get_mut(job).filter(|known| known.compared == Some(IN_HAND));
        if let Some(known) = known {
            known.compared = Some(with);
        }
    }

    /// It was found to be gone; unless it was queued again meanwhile.
    pub(super) fn gone(&mut self, job: &PostJob) {
        if self.posts.get(job).is_some_and(|known| known.compared == Some(IN_HAND)) {
            self.remove(job);
        }
    }

    /// When a post is due, if it is known.
    pub(super) fn due(&self, job: &PostJob) -> Option<u64> {
        self.posts.get(job).map(|known| known.due)
    }

    /// When the account's posts are due, in any order.
    pub(super) fn dues(&self, account: AccountId) -> impl Iterator<Item = u64> {
        self.of(account).map(|(_, known)| known.due)
    }

    /// When the account's first post is due; `None`: it has none.
    pub(super) fn soonest(&self, account: AccountId) -> Option<u64> {
        self.dues(account).min()
    }

    /// The first accounts after a place in the order in which they have posts due, each once, and
    /// the place to go on at; `None`: that were all.
    pub(super) fn page(
        &self,
        after: Option<(u64, AccountId)>,
        most: usize,
    ) -> (Vec<AccountId>, Option<(u64, AccountId)>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut accounts = Vec::new();
        let mut last = None;
        for place in self.by_due.range((start, Bound::Unbounded)).take(most) {
            last = Some(*place);
            let (due, account) = *place;
            if !self.dues(account).take(LOOKED_AT).any(|other| other < due) {
                accounts.push(account);
            }
        }
        (accounts, last)
    }

    /// How many posts are known.
    pub(super) fn len(&self) -> usize {
        self.posts.len()
    }

    /// How many found no room.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    fn of(&self, account: AccountId) -> impl Iterator<Item = (&PostJob, &Known)> {
        self.posts.range(all_of(account))
    }
}

/// All names that posts of an account can have.
fn all_of(account: AccountId) -> RangeInclusive<PostJob> {
    PostJob::new(0, PostId::first(account))..=PostJob::new(u8::MAX, PostId::last(account))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(n: u8) -> AccountId {
        AccountId::from_bytes([n; 12])
    }

    fn job(of: u8, ms: u64) -> PostJob {
        PostJob::new(0, PostId { account: account(of), user: account(0), ms })
    }

    fn print(n: u64) -> Print {
        Print::new(n).unwrap()
    }

    #[test]
    fn a_post_is_small() {
        let post = size_of::<(PostJob, Known)>() + size_of::<(u64, AccountId)>();
        // A tree's nodes are two thirds full on average, and half full at worst.
        let hundred_thousand = post * 2 * 100_000;
        assert!(hundred_thousand <= 17_000_000, "{post} bytes a post, {hundred_thousand} in all");
    }

    #[test]
    fn what_was_compared_is_not_compared_again() {
        let mut index = Index::default();
        for ms in [1, 2] {
            assert!(index.add(job(1, ms), |_new| 10 * ms));
        }
        assert!(index.add(job(2, 3), |_new| 1));
        let all = |index: &mut Index, of, with| -> Vec<_> {
            index.take_up(account(of), print(with)).collect()
        };
        assert_eq!(all(&mut index, 1, 7), [(10, job(1, 1)), (20, job(1, 2))]);
        index.compared(&job(1, 1), print(7));
        assert_eq!(all(&mut index, 1, 7), [(20, job(1, 2))]);
        assert_eq!(all(&mut index, 1, 8).len(), 2, "another pair");
        assert_eq!(all(&mut index, 3, 7), []);
    }

    #[test]
    fn what_is_queued_again_while_it_is_in_hand_is_looked_at_again() {
        let mut index = Index::default();
        for ms in [1, 2, 3] {
            assert!(index.add(job(1, ms), |_new| 10));
        }
        assert_eq!(index.take_up(account(1), print(7)).count(), 3);
        for ms in [1, 2] {
            assert!(index.add(job(1, ms), |known| known.unwrap()));
        }
        index.compared(&job(1, 1), print(7));
        index.gone(&job(1, 2));
        index.gone(&job(1, 3));
        let left: Vec<_> = index.take_up(account(1), print(7)).collect();
        assert_eq!(left, [(10, job(1, 1)), (10, job(1, 2))]);
    }

    #[test]
    fn accounts_come_in_the_order_of_their_first_posts() {
        let mut index = Index::default();
        for (of, ms, due) in [(1, 1, 50), (1, 2, 10), (2, 1, 20), (3, 1, SOME_TIME), (3, 2, 10)] {
            assert!(index.add(job(of, ms), |_new| due));
        }
        let (first, place) = index.page(None, 2);
        assert_eq!(first, [account(1), account(3)]);
        let (rest, place) = index.page(place, 9);
        assert_eq!(rest, [account(2)], "each once");
        assert_eq!(index.page(place, 9), (vec![], None));
        index.remove(&job(1, 2));
        assert_eq!(index.soonest(account(1)), Some(50));
        assert_eq!(index.page(None, 9).0, [account(3), account(2), account(1)]);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_posts(
            steps in prop::collection::vec((0..3_u8, 0..4_u64, 0..4_u64, any::<bool>()), 0..60),
        ) {
            let mut index = Index::default();
            for (of, ms, due, stays) in steps {
                if stays {
                    index.add(job(of, ms), |_known| due);
                } else {
                    index.remove(&job(of, ms));
                }
                let dues: BTreeSet<_> =
                    index.posts.iter().map(|(job, known)| (known.due, job.id.account)).collect();
                prop_assert_eq!(&index.by_due, &dues);
            }
        }
    }
}
