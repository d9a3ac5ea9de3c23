//! The failure policy as a table, every answer to every history, and what holds for all of them.

use std::fmt::Write as _;

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::domain::account::Bookkeeping;
use crate::domain::session::tests::token;
use crate::domain::session::{AccessJwt, RefreshJwt};

const NOW: i64 = 1_780_000_000;
const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "the form in which it is always needed")]
fn ago(seconds: i64) -> Option<DateTime<Utc>> {
    Some(at(NOW - seconds))
}

#[expect(clippy::unnecessary_wraps, reason = "the form in which it is always needed")]
fn heard(seconds: i64) -> Option<Moment> {
    Some(Moment { ours: at(NOW - seconds), theirs: None })
}

fn permanent(outcome: Outcome) -> Answer {
    Answer::Permanent { outcome, said_at: None }
}

fn silence() -> Answer {
    Answer::Unreachable { why: "timed out".to_owned(), may_have_spent: true }
}

fn refresh_token(jti: &str, exp: i64) -> RefreshJwt {
    let claims = serde_json::json!({
        "sub": DID, "aud": "did:web:pds.example", "jti": jti, "iat": NOW - 1_000, "exp": exp,
    });
    RefreshJwt::parse(&token(&claims)).unwrap()
}

fn account(status: Status, kept: Bookkeeping) -> Account {
    Account {
        id: "6806a8c4302c4281518c95b2".parse().unwrap(),
        did: DID.parse().unwrap(),
        handle: Some("alice.test".to_owned()),
        refresh: refresh_token("old", NOW + 1_000_000),
        status,
        token_expiry: None,
        kept,
    }
}

fn service() -> ServiceUrl {
    "https://pds.example".parse().unwrap()
}

fn session(did: &str) -> Answer {
    let access = token(&serde_json::json!({"sub": DID, "iat": NOW, "exp": NOW + 7_200}));
    let pair = Pair {
        access: AccessJwt::parse(&access).unwrap(),
        refresh: refresh_token("new", NOW + 7_776_000),
    };
    let (handle, account_status) = ("alice.test".to_owned(), None);
    Answer::Session(Box::new(Session { pair, did: did.to_owned(), handle, account_status }))
}

/// What an account may have gone through before.
fn histories() -> Vec<(&'static str, Account)> {
    use Outcome::{RateLimited, TakenDown, Unreachable};
    use Status::{Active, Error, Expired, Revoked};
    let alive = || Bookkeeping {
        refreshed_at: ago(100_000),
        attempted_at: ago(1_000),
        judged_jti: Some("old".to_owned()),
        ..Bookkeeping::default()
    };
    let heard = |seconds| Bookkeeping { heard: heard(seconds), failures: 1, ..alive() };
    let last = |outcome, failures| Bookkeeping { outcome: Some(outcome), failures, ..alive() };
    let other = Some("other".to_owned());
    let mut over = account(Active, alive());
    over.refresh = refresh_token("old", NOW);
    vec![
        ("never refreshed", account(Active, Bookkeeping::default())),
        ("kept alive", account(Active, alive())),
        ("third retry", account(Active, last(Unreachable, 3))),
        ("heard just now", account(Active, heard(0))),
        ("heard 599 s ago", account(Active, heard(599))),
        ("heard 600 s ago", account(Active, heard(600))),
        ("heard once long ago", account(Active, heard(9_000_000))),
        ("heard in the future", account(Active, heard(-9_000_000))),
        (
            "heard of another token",
            account(Active, Bookkeeping { judged_jti: other, ..heard(9_000) }),
        ),
        ("revoked by others", account(Revoked, alive())),
        ("revoked, probed once", account(Revoked, Bookkeeping { failures: 2, ..heard(4_000) })),
        ("expired, left alone", account(Expired, Bookkeeping { failures: 4, ..heard(90_000) })),
        ("error, third rung", account(Error, last(TakenDown, 3))),
        ("error, third rung, waited", account(Error, last(RateLimited, 3))),
        ("error after silence", account(Error, last(Unreachable, 12))),
        ("past its exp", over),
        ("absurd count", account(Error, last(TakenDown, u32::MAX))),
    ]
}

fn answers() -> Vec<(&'static str, Answer)> {
    vec![
        ("200", session(DID)),
        ("another's 200", session("did:plc:other")),
        ("revoked", permanent(Outcome::Revoked)),
        ("expired", permanent(Outcome::Expired)),
        ("invalid", permanent(Outcome::InvalidToken)),
        ("gone", permanent(Outcome::AccountGone)),
        ("taken down", Answer::TakenDown),
        ("429, 30 s", Answer::RateLimited(Duration::from_secs(30))),
        ("silence", silence()),
        ("unsent", Answer::Unreachable { why: "refused".to_owned(), may_have_spent: false }),
    ]
}

const POLICY: Policy = Policy {
    confirm_after: Duration::from_mins(10),
    suspect: false,
    lead: Some(Lead::Share(0.25)),
};

/// One cell: outcome, status written, failures, seconds to the next attempt and since the first
/// hearing.
fn cell(decision: &Decision) -> String {
    let note = &decision.change.note;
    let status = decision.change.verdict.map_or("-", |verdict| verdict.status.as_str());
    let next = note.next_attempt_at.map(|next| (next - at(NOW)).num_seconds());
    let heard = note.heard.map(|heard| (at(NOW) - heard.ours).num_seconds());
    let text = |seconds: Option<i64>| seconds.map_or("-".to_owned(), |it| it.to_string());
    let held = if decision.held { " held" } else { "" };
    let pair = if decision.change.rotation.is_some() { " pair" } else { "" };
    let (outcome, failures) = (note.outcome, note.failures);
    format!("{outcome}{held}{pair}, {status}, {failures}, {}, {}", text(next), text(heard))
}

#[test]
fn every_answer_to_every_history() {
    let mut table = String::new();
    for (history, account) in histories() {
        writeln!(table, "{history}").unwrap();
        for (name, answer) in answers() {
            let decision = decide(POLICY, &account, &service(), answer, (at(NOW), 0.5));
            writeln!(table, "  {name}: {}", cell(&decision)).unwrap();
            let jti = if decision.change.rotation.is_some() { "new" } else { "old" };
            assert_eq!(decision.change.note.judged_jti.as_deref(), Some(jti), "{history}, {name}");
            assert_eq!(decision.change.note.service, Some(service()), "{history}, {name}");
            assert_eq!(decision.change.note.at, at(NOW), "{history}, {name}");
        }
    }
    insta::assert_snapshot!("table", table);
}

#[test]
fn without_confirmation_the_first_hearing_is_believed() {
    let policy = Policy { confirm_after: Duration::ZERO, ..POLICY };
    let (_, kept_alive) = histories().swap_remove(1);
    let answer = permanent(Outcome::Revoked);
    let decision = decide(policy, &kept_alive, &service(), answer, (at(NOW), 0.5));
    assert_eq!(cell(&decision), "revoked, revoked, 1, 600, 0");
}

#[test]
fn while_a_server_is_suspect_its_verdicts_wait() {
    let policy = Policy { suspect: true, ..POLICY };
    for (history, cells) in [
        ("never refreshed", "revoked, revoked, 1, 600, 0"),
        ("kept alive", "revoked held, -, 1, 855, 0"),
        ("heard 600 s ago", "revoked held, -, 2, 1710, 600"),
        ("heard once long ago", "revoked held, -, 2, 1710, 9000000"),
        ("revoked by others", "revoked, revoked, 1, 600, 0"),
    ] {
        let (_, account) = histories().into_iter().find(|(name, _)| *name == history).unwrap();
        let answer = permanent(Outcome::Revoked);
        let decision = decide(policy, &account, &service(), answer, (at(NOW), 0.5));
        assert_eq!(cell(&decision), cells, "{history}");
    }
}

#[test]
fn a_session_after_all_absolves_the_server() {
    for (history, account) in histories() {
        let decision = decide(POLICY, &account, &service(), session(DID), (at(NOW), 0.5));
        assert_eq!(decision.absolves, first_heard(&account).is_some(), "{history}");
    }
}

#[test]
fn a_clock_that_jumped_ahead_confirms_nothing() {
    let (_, mut account) = histories().swap_remove(1);
    account.kept.heard = Some(Moment { ours: at(NOW - 31_536_000), theirs: ago(5) });
    let answer = Answer::Permanent { outcome: Outcome::Revoked, said_at: ago(0) };
    let decision = decide(POLICY, &account, &service(), answer, (at(NOW), 0.5));
    assert_eq!(cell(&decision), "revoked held, -, 1, 595, 31536000");
}

#[test]
fn a_server_that_answers_nobody_is_not_asked_and_no_attempt_is_counted() {
    for (history, cells) in [
        ("kept alive", "unreachable, -, 0, 45, -"),
        ("third retry", "unreachable, -, 3, 45, -"),
        ("error, third rung", "unreachable, -, 3, 855, -"),
        ("revoked, probed once", "unreachable, -, 2, 855, 4000"),
    ] {
        let (_, account) = histories().into_iter().find(|(name, _)| *name == history).unwrap();
        let wait = Duration::from_secs(40);
        let decision = out_of_reach(&account, &service(), wait, (at(NOW), 0.5));
        assert_eq!(cell(&decision), cells, "{history}");
    }
}

#[test]
fn what_is_decided_before_a_call() {
    let (_, account) = histories().swap_remove(1);
    let decision = wrong_subject(&account, &service(), at(NOW), 0.5);
    assert_eq!(cell(&decision), "identity_mismatch, error, 1, 855, -");
    assert_eq!(cell(&no_refresh_token(at(NOW))), "no_refresh_token, error, 1, -, -");
}

#[test]
fn a_handle_is_written_if_it_is_valid_and_new() {
    let (_, account) = histories().swap_remove(1);
    for (said, written) in [
        ("alice.test", None),
        ("alice.example.com", Some("alice.example.com")),
        ("handle.invalid", None),
        ("", None),
    ] {
        let Answer::Session(mut session) = session(DID) else { unreachable!() };
        session.handle = said.to_owned();
        let answer = Answer::Session(session);
        let decision = decide(POLICY, &account, &service(), answer, (at(NOW), 0.5));
        let handle = decision.change.rotation.unwrap().handle;
        assert_eq!(handle.as_ref().map(Handle::as_str), written, "{said}");
    }
}

#[test]
fn every_verdict_has_a_sentence() {
    for outcome in Outcome::ALL {
        let silent = outcome.is_success() || outcome.is_transient();
        assert_eq!(message(*outcome).is_empty(), silent || *outcome == Outcome::Malformed);
    }
}

fn moment() -> impl Strategy<Value = DateTime<Utc>> {
    prop_oneof![
        (-100_000_i64..100_000).prop_map(|by| at(NOW + by)),
        Just(DateTime::<Utc>::MIN_UTC),
        Just(DateTime::<Utc>::MAX_UTC),
    ]
}

fn any_account() -> impl Strategy<Value = Account> {
    let status = prop::sample::select(vec![
        Status::Active,
        Status::Error,
        Status::Expired,
        Status::Revoked,
        Status::Foreign,
    ]);
    let jti = prop::option::of(prop::sample::select(vec!["old".to_owned(), "other".to_owned()]));
    let outcome = prop::option::of(prop::sample::select(Outcome::ALL));
    let failures = prop_oneof![0_u32..20, Just(u32::MAX)];
    let times = prop::array::uniform4(prop::option::of(moment()));
    (status, jti, outcome, failures, times, moment()).prop_map(
        |(status, judged_jti, outcome, failures, times, exp)| {
            let [refreshed_at, attempted_at, next_attempt_at, heard_at] = times;
            let heard = heard_at.map(|ours| Moment { ours, theirs: None });
            let mut account = account(
                status,
                Bookkeeping {
                    refreshed_at,
                    attempted_at,
                    service: None,
                    outcome,
                    failures,
                    next_attempt_at,
                    judged_jti,
                    heard,
                },
            );
            account.refresh = refresh_token("old", exp.timestamp());
            account
        },
    )
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let wait = prop_oneof![
        (0_u64..200_000).prop_map(Duration::from_secs),
        any::<u64>().prop_map(Duration::from_nanos),
        Just(Duration::MAX),
    ];
    let named = (0..answers().len()).prop_map(|index| answers().swap_remove(index).1);
    prop_oneof![named, wait.prop_map(Answer::RateLimited)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_holds_for_every_decision(
        account in any_account(),
        answer in any_answer(),
        confirm in prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::from_mins(10)),
            Just(Duration::from_hours(72)),
            Just(Duration::MAX),
        ],
        millis in 0_i64..1_000,
        draw in 0.0_f64..1.0,
        suspect: bool,
    ) {
        let now = at(NOW) + TimeDelta::milliseconds(millis);
        let policy = Policy { confirm_after: confirm, suspect, ..POLICY };
        let ours = matches!(&answer, Answer::Session(session) if session.did == DID);
        let Decision { change, held, .. } = decide(policy, &account, &service(), answer, (now, draw));
        let note = &change.note;

        prop_assert_eq!(change.rotation.is_some(), ours, "a pair is stored if it is the account's");
        prop_assert_eq!(ours, note.outcome == Outcome::Refreshed);
        if let Some(verdict) = change.verdict {
            prop_assert!(!ours && !held && !note.outcome.is_transient(), "{:?}", note);
            prop_assert!(!verdict.message.is_empty() && verdict.status.is_ours());
            prop_assert!(verdict.status != Status::Active);
        }
        if held {
            prop_assert!(note.outcome.is_permanent() && account.kept.refreshed_at.is_some());
            prop_assert!(note.next_attempt_at.is_some() && note.heard.is_some());
        }
        if let Some(next) = note.next_attempt_at {
            prop_assert!(next >= now && next <= now + Duration::from_hours(24), "{}", next);
            prop_assert_eq!(next.timestamp_subsec_nanos() % 1_000_000, 0, "MongoDB keeps ms");
        }
        if suspect && account.kept.refreshed_at.is_some() {
            let condemned = change.verdict.is_some_and(|it| it.status != Status::Error);
            let marked = matches!(account.status, Status::Revoked | Status::Expired);
            prop_assert!(!condemned || marked, "while a server is suspect, its verdicts wait");
        }
        if note.outcome.is_permanent() {
            prop_assert!(note.heard.is_some_and(|heard| heard.ours <= now));
        }
    }
}
