//! Notices when somebody else uses up a server's limit behind our address: it falls faster than the
//! calls explain that share our budget.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::identity::ServiceUrl;
use crate::domain::number::to_f64;

/// Calls under way, and those of other instances that we have not heard of.
const SLACK: f64 = 20.0;

/// So much more than ours and that is no doubt somebody else's.
const TOLD_FROM: f64 = 50.0;

/// What is seen in less time says nothing about a rate.
const SEEN_FOR: Duration = Duration::from_secs(5);

/// Resets are told in whole seconds.
const SAME_WINDOW: Duration = Duration::from_secs(3);

/// Servers that are watched.
const MOST: usize = 10_000;

/// What is known of each server's present window.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Mutex<BTreeMap<ServiceUrl, Watch>>);

#[derive(Debug)]
struct Watch {
    /// Calls granted so far to all that share our budget.
    granted: u64,
    window: Option<Window>,
    /// Calls a second that are not ours.
    others: f64,
    noticed: bool,
}

/// What a server's answer tells about others behind our address.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Notice {
    /// Their calls a second.
    pub(super) others: f64,
    /// Whether they are noticed for the first time.
    pub(super) is_news: bool,
}

/// As it was when we first heard of it.
#[derive(Debug)]
struct Window {
    began: Instant,
    ends: Instant,
    remaining: u64,
    granted: u64,
}

impl Neighbours {
    /// A call was granted, and so many in all.
    pub(super) fn granted(&self, service: &ServiceUrl, count: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = all.get_mut(service) {
            // The count began anew.
            if count < watch.granted {
                watch.window = None;
            }
            watch.granted = count;
        } else if all.len() < MOST {
            all.insert(
                service.clone(),
                Watch { granted: count, window: None, others: 0.0, noticed: false },
            );
        }
    }

    /// A call was made that is in nobody's count: what is watched now explains nothing.
    pub(super) fn uncounted(&self, service: &ServiceUrl) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = all.get_mut(service) {
            watch.window = None;
        }
    }

    /// So many requests are left for so long.
    pub(super) fn notice(
        &self,
        service: &ServiceUrl,
        remaining: u64,
        until_reset: Duration,
    ) -> Notice {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watch) = all.get_mut(service) else {
            return Notice { others: 0.0, is_news: false };
        };
        let now = Instant::now();
        let ends = now + until_reset;
        let is_same = |window: &Window| {
            ends.max(window.ends) - ends.min(window.ends) < SAME_WINDOW
                && remaining <= window.remaining
        };
        let Some(window) = watch.window.as_ref().filter(|window| is_same(window)) else {
            let granted = watch.granted;
            watch.window = Some(Window { began: now, ends, remaining, granted });
            return Notice { others: watch.others, is_news: false };
        };
        let used = to_f64(window.remaining - remaining);
        let ours = to_f64(watch.granted.saturating_sub(window.granted));
        let theirs = (used - ours * 1.1 - SLACK).max(0.0);
        let seen = now - window.began;
        if seen >= SEEN_FOR {
            watch.others = theirs / seen.as_secs_f64();
        }
        let is_news = !watch.noticed && theirs > TOLD_FROM;
        watch.noticed |= is_news;
        Notice { others: watch.others, is_news }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(5);

    /// Our calls, one at a time, with so many of others between two of ours.
    fn noticed_after(others: u64) -> Option<u64> {
        let (all, service) = (Neighbours::default(), "https://one.example".parse().unwrap());
        let mut remaining = 3_000;
        for call in 1..=2_000 {
            all.granted(&service, call);
            remaining = u64::checked_sub(remaining, 1 + others)?;
            if all.notice(&service, remaining, WINDOW).is_news {
                return Some(call);
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn what_our_calls_do_not_explain_is_noticed() {
        assert_eq!(noticed_after(0), None);
        assert_eq!(noticed_after(1), Some(79));
        assert_eq!(noticed_after(50), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn every_window_begins_anew_and_it_is_told_once() {
        let (all, service) = (Neighbours::default(), "https://one.example".parse().unwrap());
        let notice = |left, until_reset| all.notice(&service, left, until_reset).is_news;
        assert!(!notice(3_000, WINDOW), "no call of ours");
        all.granted(&service, 1);
        assert!(!notice(3_000, WINDOW));
        tokio::time::sleep(WINDOW).await;
        assert!(!notice(1_000, WINDOW), "another window");
        all.granted(&service, 2);
        assert!(notice(500, WINDOW));
        assert!(!notice(0, WINDOW), "told already");
        all.granted(&service, 1);
        assert!(!notice(0, WINDOW), "the count began anew");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_nobody_counts_are_no_strangers() {
        let (all, service) = (Neighbours::default(), "https://one.example".parse().unwrap());
        let notice = |left| all.notice(&service, left, WINDOW);
        all.granted(&service, 1);
        assert!(!notice(3_000).is_news);
        for call in 1..1_000 {
            all.uncounted(&service);
            assert!(!notice(3_000 - call).is_news, "{call}");
        }
        all.granted(&service, 2);
        assert!(!notice(2_000).is_news);
        all.granted(&service, 3);
        assert!(notice(1_900).is_news, "others are noticed again");
    }

    #[tokio::test(start_paused = true)]
    async fn their_rate_is_what_ours_leaves_to_explain() {
        let (all, service) = (Neighbours::default(), "https://one.example".parse().unwrap());
        let (mut left, mut others) = (3_000, 0.0);
        for second in 1..=100 {
            all.granted(&service, second * 5);
            left -= 9;
            others = all.notice(&service, left, Duration::from_secs(300 - second)).others;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((3.2..4.0).contains(&others), "{others}");
        // The next window begins with what was learnt.
        let next = all.notice(&service, 2_995, WINDOW).others;
        assert!((3.2..4.0).contains(&next), "{next}");
    }
}
