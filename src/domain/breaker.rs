//! A server's circuit breaker: after failures in a row it is asked for signs of life only, one
//! call at a time. Pure: `now` is the time since any moment that all calls share.

use std::time::Duration;

use super::identity::AccountId;

/// Failures in a row, without a success between them, that open it.
const OPENS_AFTER: u32 = 5;

/// How long it stays open the first time; doubled each time that the probe fails, too.
const FIRST: Duration = Duration::from_secs(1);

/// The longest that it stays open before the next probe.
const LONGEST: Duration = Duration::from_secs(15);

/// A probe that nobody has reported for so long is lost, and another is let through.
const PROBE_LOST_AFTER: Duration = Duration::from_mins(1);

/// What a call says of its server's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It gave an answer that means something, be it a refusal.
    Usable,
    /// It answered, but nothing that means anything. That may be about this account alone, so
    /// several of one account in a row count as one.
    Useless(AccountId),
    /// It did not answer, or something in front of it did in its place.
    Silent,
}

/// The answer to a request for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Call, and report how it went.
    Go,
    /// Do not call before this long from now.
    Wait(Duration),
}

/// What a report has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It opened: after so many failures in a row, for so long.
    Opened(u32, Duration),
    /// The probe failed: it stays open for so long.
    StaysOpen(Duration),
    /// It closed: the server is back.
    Closed,
}

/// The breaker of one server; closed at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker(State);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
        /// The account of the last useless answer.
        last: Option<AccountId>,
    },
    Open {
        /// How long this opening lasts, before jitter.
        period: Duration,
        until: Duration,
    },
    Probing {
        period: Duration,
        since: Duration,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { failures: 0, last: None })
    }
}

impl Breaker {
    /// Asks for one call. Of all who ask when an opening is over, one is the probe.
    pub fn ask(&mut self, now: Duration) -> Pass {
        match self.wait(now) {
            Some(wait) if !wait.is_zero() => Pass::Wait(wait),
            Some(_half_open) => {
                if let State::Open { period, .. } | State::Probing { period, .. } = self.0 {
                    self.0 = State::Probing { period, since: now };
                }
                Pass::Go
            }
            None => Pass::Go,
        }
    }

    /// How long until a call is let through: zero when it would be the probe, `None` when the
    /// breaker is closed.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        match self.0 {
            State::Closed { .. } => None,
            State::Open { until, .. } => Some(until.saturating_sub(now)),
            // Its end is not known: whoever else asks waits out another opening.
            State::Probing { since, .. } if now.saturating_sub(since) >= PROBE_LOST_AFTER => {
                Some(Duration::ZERO)
            }
            State::Probing { period, .. } => Some(period),
        }
    }

    /// Learns how a call went. One that asks for time (429) is told to nobody: it says nothing of
    /// the server's health. `draw` is uniform in [0, 1).
    pub fn heard(&mut self, sign: Sign, now: Duration, draw: f64) -> Option<Turn> {
        let account = match sign {
            Sign::Usable => {
                let was_closed = matches!(self.0, State::Closed { .. });
                *self = Self::default();
                return (!was_closed).then_some(Turn::Closed);
            }
            Sign::Useless(account) => Some(account),
            Sign::Silent => None,
        };
        match self.0 {
            State::Closed { last, .. } if account.is_some() && account == last => None,
            State::Closed { failures, last } if failures.saturating_add(1) < OPENS_AFTER => {
                self.0 = State::Closed { failures: failures + 1, last: account.or(last) };
                None
            }
            State::Closed { .. } => Some(Turn::Opened(OPENS_AFTER, self.open(FIRST, now, draw))),
            // A call from before: it is known already.
            State::Open { .. } => None,
            State::Probing { period, .. } => {
                Some(Turn::StaysOpen(self.open((period * 2).min(LONGEST), now, draw)))
            }
        }
    }

    /// Gives back a call that was let through and not made.
    pub fn unused(&mut self, now: Duration) {
        if let State::Probing { period, .. } = self.0 {
            self.0 = State::Open { period, until: now };
        }
    }

    /// Whether it has nothing to remember.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.0, State::Closed { failures: 0, .. })
    }

    /// Between half and all of the period: so that many instances do not probe at one moment.
    fn open(&mut self, period: Duration, now: Duration, draw: f64) -> Duration {
        let wait = period.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0);
        self.0 = State::Open { period, until: now + wait };
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Opened at `now`, for a full second.
    fn opened(now: Duration) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..OPENS_AFTER {
            assert_eq!(breaker.heard(Sign::Silent, now, 1.0), None);
            assert_eq!(breaker.ask(now), Pass::Go);
        }
        assert_eq!(breaker.heard(Sign::Silent, now, 1.0), Some(Turn::Opened(5, at(1_000))));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            for _ in 1..OPENS_AFTER {
                assert_eq!(breaker.heard(Sign::Silent, at(0), 0.5), None);
            }
            assert!(!breaker.is_at_rest());
            assert_eq!(breaker.heard(Sign::Usable, at(0), 0.5), None);
            assert!(breaker.is_at_rest());
        }
    }

    #[test]
    fn useless_answers_open_it_when_they_are_about_several_accounts() {
        let useless = |n: u8| Sign::Useless(AccountId::from_bytes([n; 12]));
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert_eq!(breaker.heard(useless(1), at(0), 1.0), None);
        }
        for n in [2, 1, 2] {
            assert_eq!(breaker.heard(useless(n), at(0), 1.0), None);
        }
        assert_eq!(breaker.heard(Sign::Silent, at(0), 1.0), Some(Turn::Opened(5, at(1_000))));
        assert_eq!(breaker.ask(at(1_000)), Pass::Go);
        let probe = breaker.heard(useless(2), at(1_000), 1.0);
        assert_eq!(probe, Some(Turn::StaysOpen(at(2_000))));
    }

    #[test]
    fn while_it_is_open_one_probe_is_let_through_each_time() {
        let mut breaker = opened(at(0));
        let mut now = at(0);
        for seconds in [1, 2, 4, 8, 15, 15] {
            let period = Duration::from_secs(seconds);
            assert_eq!(breaker.wait(now), Some(period));
            assert_eq!(
                breaker.ask(now + period.saturating_sub(at(1))),
                Pass::Wait(at(1)),
                "{seconds} s"
            );
            now += period;
            assert_eq!(breaker.wait(now), Some(at(0)));
            assert_eq!(breaker.ask(now), Pass::Go);
            assert_eq!(breaker.ask(now), Pass::Wait(period));
            let next = (period * 2).min(LONGEST);
            assert_eq!(breaker.heard(Sign::Silent, now, 1.0), Some(Turn::StaysOpen(next)));
        }
        now += LONGEST;
        assert_eq!(breaker.ask(now), Pass::Go);
        assert_eq!(breaker.heard(Sign::Usable, now, 1.0), Some(Turn::Closed));
        assert_eq!(breaker, Breaker::default());
        assert_eq!(opened(now).wait(now), Some(FIRST), "it begins anew");
    }

    #[test]
    fn an_opening_is_never_shorter_than_half_of_its_period() {
        for (draw, wait) in [(0.0, 500), (0.5, 750), (1.0, 1_000)] {
            let mut breaker = Breaker(State::Closed { failures: OPENS_AFTER - 1, last: None });
            assert_eq!(breaker.heard(Sign::Silent, at(7), draw), Some(Turn::Opened(5, at(wait))));
            assert_eq!(breaker.wait(at(7)), Some(at(wait)));
        }
    }

    #[test]
    fn a_lost_probe_is_replaced_and_an_unused_one_given_back() {
        let mut breaker = opened(at(0));
        assert_eq!(breaker.ask(at(1_000)), Pass::Go);
        let lost = at(1_000) + PROBE_LOST_AFTER;
        assert_eq!(breaker.ask(lost.saturating_sub(at(1))), Pass::Wait(FIRST));
        assert_eq!(breaker.ask(lost), Pass::Go);
        assert_eq!(breaker.ask(lost), Pass::Wait(FIRST));
        breaker.unused(lost);
        assert_eq!(breaker.ask(lost), Pass::Go);
        let mut closed = Breaker::default();
        closed.unused(lost);
        assert!(closed.is_at_rest());
    }

    #[test]
    fn calls_from_before_tell_nothing_new_unless_one_was_answered() {
        let mut breaker = opened(at(0));
        for _ in 0..100 {
            assert_eq!(breaker.heard(Sign::Silent, at(10), 1.0), None);
        }
        assert_eq!(breaker.wait(at(10)), Some(at(990)));
        assert_eq!(breaker.heard(Sign::Usable, at(20), 1.0), Some(Turn::Closed));
        assert_eq!(breaker.ask(at(20)), Pass::Go);
    }

    proptest! {
        /// Many callers ask and report in any order: between two openings a dead server is called
        /// once, and each opening lasts at least half a second.
        #[test]
        fn a_dead_server_gets_one_probe_per_opening(
            steps in prop::collection::vec((0_u64..2_000, 0_usize..8, 0.0_f64..1.0), 1..400),
        ) {
            let mut breaker = Breaker::default();
            let (mut now, mut under_way) = (Duration::ZERO, Vec::new());
            let mut probes: Option<u32> = None;
            for (millis, what, draw) in steps {
                now += at(millis);
                if what < 4 {
                    if breaker.ask(now) == Pass::Go {
                        under_way.push(now);
                        probes = probes.map(|it| it + 1);
                    }
                } else if let Some(began) = under_way.pop() {
                    let turn = breaker.heard(Sign::Silent, now, draw);
                    if let Some(Turn::Opened(_, wait) | Turn::StaysOpen(wait)) = turn {
                        prop_assert!(wait >= FIRST / 2 && wait <= LONGEST);
                        // One that was lost is replaced, and may still be heard of.
                        let lost = now.saturating_sub(began) >= PROBE_LOST_AFTER;
                        prop_assert!(lost || probes.is_none_or(|it| it <= 1), "{probes:?}");
                        probes = Some(0);
                    }
                }
            }
        }
    }
}
