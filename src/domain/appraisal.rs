//! What the bookkeeping of an account has to say, seeing what its document holds. Pure.
//!
//! Which server it belongs to and when it is due: after somebody else has stored a token, changed
//! the status or added the account, or after a clock was wrong.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::account::{Account, Bookkeeping, Document, Status};
use super::backoff::LONGEST_WAIT;
use super::identity::{AccountId, ServiceUrl};
use super::outcome::Outcome;
use super::renewal::{Lead, later};
use super::routing::Routing;
use super::session::{AccessJwt, Life};

/// How long accounts in trouble take to be tried that are met for the first time.
const FIRST_TRY: Duration = Duration::from_mins(15);

/// Clocks of several machines differ by that much.
const CLOCKS: TimeDelta = TimeDelta::hours(1);

/// By what an account is appraised.
#[derive(Debug)]
pub struct Rules<'a> {
    /// `REFRESH_LEAD`; `None` with `KEEP_FRESH=false`.
    pub lead: Option<Lead>,
    /// Which server an account belongs to.
    pub routing: &'a Routing,
}

/// What is to be written, by compare-and-set on what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appraisal {
    /// `tokenRefresh.service`.
    pub service: ServiceUrl,
    /// `tokenRefresh.nextAttemptAt`.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The `jti` of a token that somebody else has stored: the bookkeeping starts over for it.
    pub new_token: Option<NewToken>,
    /// `tokenExpiry`, where it disagrees with the access token itself.
    pub token_expiry: Option<DateTime<Utc>>,
}

/// A token that the bookkeeping knew nothing of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its name.
    pub jti: String,
    /// How the account stands with it: [`Outcome::Superseded`] if it took the place of another.
    pub outcome: Option<Outcome>,
}

/// Appraises a document. `None`: it says all that it has to, or is not the daemon's to keep.
pub fn appraise(rules: &Rules<'_>, document: &Document, now: DateTime<Utc>) -> Option<Appraisal> {
    let account = document.account.as_ref().ok().filter(|account| account.status.is_ours())?;
    let kept = &account.kept;
    let service = rules.routing.service(account.refresh.audience());
    let token_expiry = document.access.as_ref().map(AccessJwt::expires_at);
    let token_expiry = token_expiry.filter(|at| document.token_expiry != Some(*at));
    let is_new = kept.judged_jti.as_deref() != Some(account.refresh.jti());
    let life = document.access.as_ref().map(AccessJwt::life);
    let life = life.unwrap_or_else(|| account.refresh.access_life(document.token_expiry));
    let next_attempt_at = due(rules.lead, account, life, (is_new, now));
    let new_token = is_new.then(|| NewToken {
        jti: account.refresh.jti().to_owned(),
        outcome: kept.judged_jti.is_some().then_some(Outcome::Superseded),
    });
    let says_it_all = kept.service.as_ref() == Some(&service)
        && kept.next_attempt_at == next_attempt_at
        && new_token.is_none()
        && token_expiry.is_none();
    (!says_it_all).then_some(Appraisal { service, next_attempt_at, new_token, token_expiry })
}

/// When the account is due, which mostly is when its bookkeeping says.
fn due(
    lead: Option<Lead>,
    account: &Account,
    life: Life,
    (is_new, now): (bool, DateTime<Utc>),
) -> Option<DateTime<Utc>> {
    let kept = &account.kept;
    // Further away than any rule could have put it: a clock was wrong.
    let horizon = TimeDelta::from_std(LONGEST_WAIT).map_or(now, |longest| now + longest + CLOCKS);
    let next = kept.next_attempt_at.map(|at| if at > horizon { at_once(now) } else { at });
    let failed = kept.outcome.is_some_and(|outcome| !outcome.is_success());
    match account.status {
        Status::Active if lead.is_some_and(|it| was_set_back(it, kept, life, now)) => {
            // It was fresh when the clock was set, and has its lead left, unless that was noticed late.
            let within = lead?.of(life.length()) / 2;
            let due = later(now, within.mul_f64(draw(account.id)));
            next.filter(|at| !is_new && *at <= later(now, within)).or(Some(due))
        }
        _ if failed && !is_new => next,
        Status::Active => {
            let due = lead?.due(life, now, kept.refreshed_at.is_none(), draw(account.id));
            next.filter(|at| !is_new && (*at <= now || *at <= latest(kept, life, now)))
                .or(Some(due))
        }
        _ if kept.judged_jti.is_none() => Some(later(now, FIRST_TRY.mul_f64(draw(account.id)))),
        _ if !is_new && kept.outcome.is_none() => next,
        // Somebody stored another token, or calls it broken against our own last word.
        _ => next.filter(|at| *at <= now).or(Some(at_once(now))),
    }
}

/// Whether our clock was set back since the account was refreshed, by more than its lead makes up
/// for: its server issued the token in what is the future now, and so did whoever stored it.
fn was_set_back(lead: Lead, kept: &Bookkeeping, life: Life, now: DateTime<Utc>) -> bool {
    let soon = later(now, lead.of(life.length()) / 2);
    life.issued_at > soon && kept.refreshed_at.is_some_and(|at| at > soon)
}

/// The latest time that an account can be due: its token's end. By a clock that is wrong, a life
/// after the refresh that the same clock has noted.
fn latest(kept: &Bookkeeping, life: Life, now: DateTime<Utc>) -> DateTime<Utc> {
    let by_its_end = life.ends(now);
    let by_ours = kept.refreshed_at.filter(|at| *at <= now).map(|at| later(at, life.length()));
    by_ours.map_or(by_its_end, |at| at.max(by_its_end))
}

fn at_once(now: DateTime<Utc>) -> DateTime<Utc> {
    later(now, Duration::ZERO)
}

/// A number in [0, 1) that is an account's own: the same whenever and wherever it is drawn, and
/// evenly spread over accounts whose ids follow one another (splitmix64's mixer).
fn draw(id: AccountId) -> f64 {
    let mut mixed = 0_u64;
    for byte in id.bytes() {
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^= mixed >> 29;
    }
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    // 32 bits are exact in a double.
    f64::from(u32::try_from(mixed >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::StoredToken;
    use crate::domain::session::RefreshJwt;
    use crate::domain::session::tests::token;
    use proptest::prelude::*;

    const NOW: i64 = 1_000_000;
    const ISSUED: i64 = NOW - 600;
    const LEAD: Option<Lead> = Some(Lead::Share(0.25));

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// Its token is called `j1`, and was issued at `ISSUED`.
    fn document(status: Status, kept: Bookkeeping) -> Document {
        let claims = serde_json::json!({
            "sub": "did:plc:a", "aud": "did:web:pds.example", "jti": "j1", "iat": ISSUED,
            "exp": NOW + 1_000_000,
        });
        let access = serde_json::json!({ "iat": ISSUED, "exp": ISSUED + 7_200 });
        let (id, did, handle) = ([7; 12], "did:plc:a".parse().unwrap(), None);
        let id = AccountId::from_bytes(id);
        let refresh = RefreshJwt::parse(&token(&claims)).unwrap();
        let (stored, token_expiry) =
            (StoredToken::Token(refresh.clone()), Some(at(ISSUED + 7_200)));
        let account =
            Account { id, did, handle: None, refresh, status, token_expiry, kept: kept.clone() };
        let did = Some("did:plc:a".to_owned());
        Document {
            id,
            did,
            handle,
            status,
            token_expiry,
            access: Some(AccessJwt::parse(&token(&access)).unwrap()),
            kept,
            token: stored,
            account: Ok(account),
        }
    }

    /// As after an attempt that judged `jti`.
    fn kept(jti: &str, outcome: Option<Outcome>, next: Option<i64>) -> Bookkeeping {
        Bookkeeping {
            refreshed_at: Some(at(ISSUED)),
            service: Some("https://pds.example".parse().unwrap()),
            outcome,
            next_attempt_at: next.map(at),
            judged_jti: Some(jti.to_owned()),
            ..Bookkeeping::default()
        }
    }

    fn appraised(lead: Option<Lead>, document: &Document, now: i64) -> Option<Appraisal> {
        let routing = Routing::new("https://bsky.social".parse().unwrap(), true, false);
        appraise(&Rules { lead, routing: &routing }, document, at(now))
    }

    /// When it is due, in seconds from now, where that is news.
    #[expect(clippy::option_option, reason = "no news, and news that it is never due")]
    fn due(lead: Option<Lead>, status: Status, kept: Bookkeeping) -> Option<Option<i64>> {
        let appraisal = appraised(lead, &document(status, kept), NOW)?;
        Some(appraisal.next_attempt_at.map(|at| at.timestamp() - NOW))
    }

    #[test]
    fn what_stands_right_stays() {
        use Outcome::{RateLimited, Refreshed, Revoked, Unreachable};
        for (status, outcome, next) in [
            (Status::Active, Some(Refreshed), Some(NOW + 4_800)),
            (Status::Active, Some(Refreshed), Some(NOW - 60)),
            (Status::Active, None, Some(NOW + 10)),
            (Status::Active, Some(Unreachable), Some(NOW + 900)),
            (Status::Active, Some(RateLimited), Some(NOW + 80_000)),
            (Status::Error, Some(Unreachable), Some(NOW + 900)),
            (Status::Error, None, Some(NOW + 300)),
            (Status::Revoked, Some(Revoked), None),
            (Status::Expired, Some(Revoked), Some(NOW + 86_000)),
            (Status::Foreign, Some(Refreshed), None),
        ] {
            let kept = kept("j1", outcome, next);
            assert_eq!(due(LEAD, status, kept), None, "{status} {outcome:?} {next:?}");
        }
        assert_eq!(due(LEAD, Status::Foreign, Bookkeeping::default()), None);
    }

    #[test]
    fn an_active_account_is_due_before_its_token_ends() {
        let by_its_life = NOW - 600 + 5_400 - NOW;
        let soon = |kept| {
            let due = due(LEAD, Status::Active, kept).unwrap().unwrap();
            assert!(due <= by_its_life && due >= by_its_life * 95 / 100, "{due}");
        };
        let refreshed = Some(Outcome::Refreshed);
        soon(kept("j1", refreshed, None));
        soon(kept("j1", refreshed, Some(NOW + 7_000)));
        soon(kept("j0", refreshed, Some(NOW + 60)));
        soon(kept("j0", Some(Outcome::Revoked), None));
        // Met for the first time: any time until then.
        let first = due(LEAD, Status::Active, Bookkeeping::default()).unwrap().unwrap();
        assert!((0..by_its_life).contains(&first), "{first}");
    }

    #[test]
    fn without_keep_fresh_only_what_failed_is_due() {
        let active = |outcome, next| due(None, Status::Active, kept("j1", Some(outcome), next));
        assert_eq!(active(Outcome::Refreshed, Some(NOW + 9)), Some(None));
        assert_eq!(active(Outcome::Refreshed, None), None);
        assert_eq!(active(Outcome::Unreachable, Some(NOW + 9)), None);
        assert_eq!(due(None, Status::Active, Bookkeeping::default()), Some(None));
    }

    #[test]
    fn an_account_in_trouble_wakes_when_its_token_changes_or_others_call_it_broken() {
        for status in [Status::Error, Status::Revoked, Status::Expired] {
            let judged = |jti, outcome, next| due(LEAD, status, kept(jti, outcome, next));
            assert_eq!(judged("j0", Some(Outcome::Revoked), None), Some(Some(0)));
            assert_eq!(judged("j0", Some(Outcome::Revoked), Some(NOW - 9)), Some(Some(-9)));
            assert_eq!(judged("j1", Some(Outcome::Refreshed), Some(NOW + 9)), Some(Some(0)));
            assert_eq!(judged("j1", Some(Outcome::Refreshed), Some(NOW - 9)), None);
            let first = due(LEAD, status, Bookkeeping::default()).unwrap().unwrap();
            assert!((0..900).contains(&first), "{first}");
        }
    }

    #[test]
    fn a_time_that_no_rule_yields_is_now() {
        let far = Some(NOW + 90_001);
        for (status, outcome) in
            [(Status::Active, Outcome::Unreachable), (Status::Error, Outcome::TakenDown)]
        {
            assert_eq!(due(LEAD, status, kept("j1", Some(outcome), far)), Some(Some(0)));
        }
    }

    /// When an account is due, in seconds from then, by a clock that says `now`.
    fn due_by(now: i64, kept: Bookkeeping) -> Option<i64> {
        let appraisal = appraised(LEAD, &document(Status::Active, kept), now)?;
        Some(appraisal.next_attempt_at?.timestamp() - now)
    }

    #[test]
    fn a_clock_that_was_set_back_puts_nobody_off_beyond_their_lead() {
        let refreshed = |next| kept("j1", Some(Outcome::Refreshed), Some(next));
        let back = NOW - 3_600;
        for kept in [
            refreshed(ISSUED + 5_400),
            kept("j1", Some(Outcome::Unreachable), Some(NOW + 60)),
            kept("j1", Some(Outcome::Refreshed), None),
        ] {
            let due = due_by(back, kept).unwrap();
            assert!((0..900).contains(&due), "{due}");
        }
        assert_eq!(due_by(back, refreshed(back + 800)), None, "it is soon enough");
        assert_eq!(due_by(back, refreshed(back - 60)), None);
        // Less than what the lead makes up for.
        assert_eq!(due_by(ISSUED - 800, refreshed(ISSUED + 5_400)), None);
    }

    #[test]
    fn a_wrong_clock_schedules_by_itself() {
        for now in [NOW - 30_000, NOW - 3_600, NOW, NOW + 3_600, NOW + 30_000] {
            let refreshed_at = Some(at(now - 60));
            let next = Some(now - 60 + 5_400);
            let kept = Bookkeeping { refreshed_at, ..kept("j1", Some(Outcome::Refreshed), next) };
            assert_eq!(due_by(now, kept), None, "{now}");
        }
        // Tokens that others store in what is the future by a clock that is behind.
        for now in [NOW - 30_000, NOW - 3_600, ISSUED] {
            let first = due_by(now, Bookkeeping::default()).unwrap();
            assert!((0..=5_400).contains(&first), "{first}");
            let refreshed_at = Some(at(now - 9_000));
            let due = due_by(now, Bookkeeping { refreshed_at, ..kept("j0", None, None) }).unwrap();
            assert!((5_130..=5_400).contains(&due), "{due}");
        }
    }

    #[test]
    fn the_expiry_is_the_tokens_own() {
        let mut document =
            document(Status::Active, kept("j1", Some(Outcome::Refreshed), Some(NOW + 60)));
        document.token_expiry = None;
        let appraisal = appraised(LEAD, &document, NOW).unwrap();
        assert_eq!(appraisal.token_expiry, Some(at(ISSUED + 7_200)));
        assert_eq!(appraisal.next_attempt_at, Some(at(NOW + 60)));
        assert_eq!(appraisal.new_token, None);
    }

    #[test]
    fn a_new_token_begins_anew() {
        let begun = |kept| appraised(LEAD, &document(Status::Active, kept), NOW).unwrap().new_token;
        let named = |outcome| Some(NewToken { jti: "j1".to_owned(), outcome });
        assert_eq!(begun(kept("j0", None, None)), named(Some(Outcome::Superseded)));
        assert_eq!(begun(Bookkeeping::default()), named(None));
    }

    #[test]
    fn first_times_are_even() {
        let id = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            AccountId::from_bytes([0x67, 1, 2, 3, 9, 9, 9, 9, a, b, c, d])
        };
        let mut tenths = [0_u32; 10];
        for n in 0..100_000 {
            let draw = draw(id(n));
            let tenth = (0..10).rev().find(|tenth| draw * 10.0 >= f64::from(*tenth)).unwrap();
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|n| (9_700..10_300).contains(n)), "{tenths:?}");
    }

    fn some_kept() -> impl Strategy<Value = Bookkeeping> {
        let outcomes: Vec<_> = Outcome::ALL.iter().copied().map(Some).chain([None]).collect();
        let jti = prop_oneof![Just(None), Just(Some("j0")), Just(Some("j1"))];
        let next = prop::option::of(NOW - 100_000..NOW + 200_000);
        let refreshed = prop::option::of(prop_oneof![Just(ISSUED), NOW - 30_000..NOW + 30_000]);
        (jti, prop::sample::select(outcomes), next, refreshed).prop_map(
            |(jti, outcome, next, refreshed)| Bookkeeping {
                judged_jti: jti.map(str::to_owned),
                refreshed_at: refreshed.map(at),
                ..kept("", outcome, next)
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_written_once(
            kept in some_kept(),
            status in prop::sample::select(vec![Status::Active, Status::Error, Status::Revoked]),
            keep_fresh: bool,
            now in prop_oneof![Just(NOW), NOW - 30_000..NOW + 30_000],
            later in 0_i64..1_000,
        ) {
            let lead = LEAD.filter(|_| keep_fresh);
            let mut document = document(status, kept);
            if let Some(appraisal) = appraised(lead, &document, now) {
                let account = document.account.as_mut().unwrap();
                account.kept.service = Some(appraisal.service);
                account.kept.next_attempt_at = appraisal.next_attempt_at;
                if let Some(new) = appraisal.new_token {
                    account.kept.judged_jti = Some(new.jti);
                    account.kept.outcome = new.outcome;
                }
            }
            let again = appraised(lead, &document, now);
            prop_assert_eq!(again, None);
            let soon = appraised(lead, &document, now + later);
            prop_assert_eq!(soon, None);
        }
    }
}
