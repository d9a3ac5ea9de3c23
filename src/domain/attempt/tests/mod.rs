//! Every way through an attempt, as the events it is told and the actions it asks for.

mod entries;

use chrono::TimeDelta;

use super::*;
use crate::domain::account::{Bookkeeping, Status};
use crate::domain::answer::Session;
use crate::domain::moment::Moment;
use crate::domain::session::tests::token;
use crate::domain::session::{AccessJwt, Pair};

const NOW: i64 = 1_780_000_000;
const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
const POLICY: Policy =
    Policy { confirm_after: Duration::from_mins(10), suspect: false, lead: None };

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).unwrap()
}

fn refresh_of(sub: &str, jti: &str, iat: i64) -> RefreshJwt {
    let claims = serde_json::json!({
        "sub": sub, "aud": "did:web:pds.example", "jti": jti, "iat": iat, "exp": NOW + 100_000,
    });
    RefreshJwt::parse(&token(&claims)).unwrap()
}

fn refresh(jti: &str, iat: i64) -> RefreshJwt {
    refresh_of(DID, jti, iat)
}

/// The token that is used, issued at 100, and the answer's, issued at 200.
fn used() -> RefreshJwt {
    refresh("u", 100)
}

fn session(did: &str) -> Event {
    let access = token(&serde_json::json!({"sub": DID, "iat": 200, "exp": NOW + 7_200}));
    let access = AccessJwt::parse(&access).unwrap();
    let pair = Pair { access, refresh: refresh("n", 200) };
    let handle = "alice.example.com".to_owned();
    let session = Session { pair, did: did.to_owned(), handle, account_status: None };
    Event::Answered(Answer::Session(Box::new(session)))
}

fn document(stored: StoredToken, status: &str) -> Document {
    let id = "6806a8c4302c4281518c95b2".parse().unwrap();
    let status = Status::read(Some(status));
    let kept = Bookkeeping::default();
    let handle = Some("alice.test".to_owned());
    let account = match &stored {
        StoredToken::Null => Err(Unusable::NoRefreshToken),
        StoredToken::Unreadable => Err(Unusable::malformed("refreshToken", "is not a JWT")),
        StoredToken::Token(refresh) => Ok(Account {
            id,
            did: DID.parse().unwrap(),
            handle: handle.clone(),
            refresh: refresh.clone(),
            status,
            token_expiry: None,
            kept: kept.clone(),
        }),
    };
    let did = Some(DID.to_owned());
    Document {
        id,
        did,
        handle,
        status,
        token_expiry: None,
        access: None,
        kept,
        token: stored,
        account,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form in which it is always needed")]
fn holding(token: RefreshJwt, status: &str) -> Option<Document> {
    Some(document(StoredToken::Token(token), status))
}

fn noted(mut document: Document, jti: Option<&str>, next_in: Option<i64>, at: i64) -> Document {
    document.kept.judged_jti = jti.map(ToOwned::to_owned);
    document.kept.next_attempt_at = next_in.map(|by| now() + TimeDelta::seconds(by));
    document.kept.attempted_at = DateTime::from_timestamp(at, 0);
    document
}

/// An action in one line.
fn told(action: &Action) -> String {
    match action {
        Action::Load => "load".to_owned(),
        Action::Spend(service) => format!("spend at {service}"),
        Action::Intend(intent) => {
            format!("intend {} with {}", intent.service, intent.token.jti())
        }
        Action::Call(service, token) => format!("call {service} with {}", token.jti()),
        Action::Keep(session) => format!("keep {}", session.pair.refresh.jti()),
        Action::Backdate(at) => {
            format!("backdate by {} min", (now() - *at).num_minutes())
        }
        Action::Hear(hearing) => {
            format!("hear {}{}", hearing.service, if hearing.first { ", first" } else { "" })
        }
        Action::Release(end) => format!("release: {end}"),
        Action::Absolve(service) => format!("absolve {service}"),
        Action::Save(save) => {
            let expected = save.expected.token.as_ref().map_or("null", RefreshJwt::jti);
            let class = if save.expected.ours { "ours" } else { "foreign" };
            let pair = save.change.rotation.as_ref().map(|it| it.pair.refresh.jti());
            let status = save.change.verdict.map(|verdict| verdict.status.as_str());
            let what = pair.or(status).unwrap_or("a note");
            let (outcome, misses) = (save.change.note.outcome, save.misses);
            format!("{what} over {expected}, {class}: {outcome}, {misses} misses")
        }
        Action::Finish(report) => {
            let held = if report.held { " held" } else { "" };
            let expires = if report.expires_at.is_some() { ", fresh" } else { "" };
            let next = report.next_attempt_at.map(|next| (next - now()).num_seconds());
            let next = next.map(|next| format!(", again in {next} s")).unwrap_or_default();
            format!("end: {}{held}{expires}{next}", report.outcome)
        }
    }
}

/// Plays `events` and compares the actions that follow each; returns the last report.
#[track_caller]
fn path(name: &str, generation: Option<&str>, steps: Vec<(Event, &str)>) -> Report {
    path_with(name, generation, None, steps)
}

/// The same, of an account that the journal has an entry of.
#[track_caller]
fn path_with(
    name: &str,
    generation: Option<&str>,
    pending: Option<Pending>,
    steps: Vec<(Event, &str)>,
) -> Report {
    let routing = Routing::new("https://bsky.social".parse().unwrap(), true, false);
    let id = "6806a8c4302c4281518c95b2".parse().unwrap();
    let (mut attempt, first) = Attempt::begin(POLICY, &routing, id, generation, pending);
    assert_eq!(told(&first), "load", "{name}");
    let mut last = first;
    for (event, expected) in steps {
        let shown = format!("{event:?}");
        last = attempt.step(event, now(), 0.5);
        assert_eq!(told(&last), expected, "{name}, after {shown:.40}");
    }
    let Action::Finish(report) = last else { panic!("{name} does not end") };
    *report
}

/// The way to an answer, and what follows it. A pair is kept first.
fn answered(
    answer: Event,
    first: &'static str,
    rest: Vec<(Event, &'static str)>,
) -> Vec<(Event, &'static str)> {
    let mut steps = vec![
        (Event::Loaded(holding(used(), "active")), "spend at https://pds.example"),
        (Event::Granted, "intend https://pds.example with u"),
        (Event::Intended, "call https://pds.example with u"),
    ];
    if matches!(answer, Event::Answered(Answer::Session(_))) {
        steps.extend([(answer, "keep n"), (Event::Kept, first)]);
    } else {
        steps.push((answer, first));
    }
    steps.extend(rest);
    steps
}

/// A write that ends the account's entry, and the attempt with it.
fn ends(end: &'static str, report: &'static str) -> Vec<(Event, &'static str)> {
    vec![(Event::Saved, end), (Event::Released, report)]
}

fn permanent(outcome: Outcome) -> Event {
    Event::Answered(Answer::Permanent { outcome, said_at: None })
}

fn silence(may_have_spent: bool) -> Event {
    Event::Answered(Answer::Unreachable { why: "timed out".to_owned(), may_have_spent })
}

const PAIR: &str = "n over u, ours: refreshed, 0 misses";

#[test]
fn a_refresh() {
    let steps = answered(session(DID), PAIR, ends("release: stored", "end: refreshed, fresh"));
    let report = path("refreshed", Some("u"), steps);
    assert_eq!(report.handle.as_deref(), Some("alice.example.com"));
    assert_eq!(report.expires_at.unwrap().timestamp(), NOW + 7_200);
    assert_eq!((report.attempt, report.did.as_deref()), (1, Some(DID)));
}

#[test]
fn ends_before_a_call() {
    let superseded = "end: superseded";
    let loaded = |document| vec![(Event::Loaded(document), superseded)];
    path("gone", None, loaded(None));
    path("disconnected", None, loaded(holding(used(), "inactive")));
    path("disconnected, null", None, loaded(Some(document(StoredToken::Null, "inactive"))));
    path("another generation", Some("older"), loaded(holding(used(), "active")));

    let malformed = Some(document(StoredToken::Unreadable, "active"));
    let report = path("malformed", None, vec![(Event::Loaded(malformed), "end: malformed")]);
    assert_eq!(report.error.as_deref(), Some("refreshToken is not a JWT"));

    let null = || Some(document(StoredToken::Null, "active"));
    let verdict = "error over null, ours: no_refresh_token, 0 misses";
    let end = "end: no_refresh_token";
    path("null", None, vec![(Event::Loaded(null()), verdict), (Event::Saved, end)]);
    let reconnected = holding(used(), "active");
    let steps = vec![(Event::Loaded(null()), verdict), (Event::Missed(reconnected), superseded)];
    path("null, logged in meanwhile", None, steps);

    let other = holding(refresh_of("did:plc:other", "u", 100), "active");
    let verdict = "error over u, ours: identity_mismatch, 0 misses";
    let end = "end: identity_mismatch, again in 855 s";
    path("another's token", None, vec![(Event::Loaded(other), verdict), (Event::Saved, end)]);

    let steps = vec![
        (Event::Loaded(holding(used(), "active")), "spend at https://pds.example"),
        (Event::Denied(Duration::from_secs(7)), "a note over u, ours: rate_limited, 0 misses"),
        (Event::Saved, "end: rate_limited, again in 7 s"),
    ];
    path("no budget", None, steps);
}

#[test]
fn other_answers() {
    for (answer, write, end) in [
        (
            permanent(Outcome::Revoked),
            "revoked over u, ours: revoked, 0 misses",
            "end: revoked, again in 600 s",
        ),
        (
            Event::Answered(Answer::TakenDown),
            "error over u, ours: taken_down, 0 misses",
            "end: taken_down, again in 855 s",
        ),
        (
            Event::Answered(Answer::RateLimited(Duration::from_secs(9))),
            "a note over u, ours: rate_limited, 0 misses",
            "end: rate_limited, again in 9 s",
        ),
    ] {
        path(end, None, answered(answer, write, ends("release: refused", end)));
    }
    let write = "error over u, ours: identity_mismatch, 0 misses";
    let end = ends("release: mismatch", "end: identity_mismatch, again in 855 s");
    path("other's pair", None, answered(session("did:plc:x"), write, end));
}

#[test]
fn silence_leaves_the_entry_unless_nothing_was_sent() {
    let write = "a note over u, ours: unreachable, 0 misses";
    let end = "end: unreachable, again in 0 s";
    path("unsent", None, answered(silence(false), write, ends("release: unsent", end)));
    path("may have been sent", None, answered(silence(true), write, vec![(Event::Saved, end)]));
}

#[test]
fn what_is_heard_of_a_session_that_was_kept_alive() {
    let kept_alive = |heard| {
        let mut document = document(StoredToken::Token(used()), "active");
        let kept = &mut document.account.as_mut().unwrap().kept;
        kept.refreshed_at = Some(DateTime::UNIX_EPOCH);
        if heard {
            kept.judged_jti = Some("u".to_owned());
            let ours = now() - TimeDelta::hours(1);
            kept.heard = Some(Moment { ours, theirs: None });
        }
        Event::Loaded(Some(document))
    };
    let on_the_way = |heard| {
        vec![
            (kept_alive(heard), "spend at https://pds.example"),
            (Event::Granted, "intend https://pds.example with u"),
            (Event::Intended, "call https://pds.example with u"),
        ]
    };
    let note = "a note over u, ours: revoked, 0 misses";
    let verdict = "revoked over u, ours: revoked, 0 misses";
    for (heard, suspect, hear, write, end) in [
        (
            false,
            false,
            "hear https://pds.example, first",
            note,
            "end: revoked held, again in 600 s",
        ),
        (false, true, "hear https://pds.example, first", note, "end: revoked held, again in 855 s"),
        (true, false, "hear https://pds.example", verdict, "end: revoked, again in 600 s"),
        (true, true, "hear https://pds.example", note, "end: revoked held, again in 855 s"),
    ] {
        let mut steps = on_the_way(heard);
        steps.extend([(permanent(Outcome::Revoked), hear), (Event::Heard { suspect }, write)]);
        steps.extend(ends("release: refused", end));
        path(end, None, steps);
    }
    let mut steps = on_the_way(true);
    steps.extend([(session(DID), "keep n"), (Event::Kept, PAIR)]);
    steps.extend([
        (Event::Saved, "release: stored"),
        (Event::Released, "absolve https://pds.example"),
        (Event::Absolved, "end: refreshed, fresh"),
    ]);
    path("a session after all", None, steps);
}

#[test]
fn a_missed_pair_is_settled() {
    let note = |jti: &str| format!("a note over {jti}, ours: superseded, 0 misses");
    let unreadable = || Some(document(StoredToken::Unreadable, "active"));
    let superseded = "end: superseded";
    let miss = |document, end| {
        let rest = vec![(Event::Missed(document), end), (Event::Released, superseded)];
        answered(session(DID), PAIR, rest)
    };
    let null = Some(document(StoredToken::Null, "active"));
    path("null", None, miss(null, "release: disconnected"));
    path("gone", None, miss(None, "release: disconnected"));
    path("unreadable", None, miss(unreadable(), "release: superseded"));
    let newer = holding(refresh("c", 150), "inactive");
    path("newer, disconnected", None, miss(newer, "release: superseded"));

    let fresh = "end: refreshed, fresh";
    let ours = vec![
        (Event::Missed(holding(refresh("n", 200), "active")), "release: stored"),
        (Event::Released, fresh),
    ];
    path("had arrived", None, answered(session(DID), PAIR, ours));

    for (stored, status, again) in [
        (used(), "active", "n over u, ours: refreshed, 1 misses"),
        (used(), "inactive", "n over u, foreign: refreshed, 1 misses"),
        (refresh("o", 50), "error", "n over o, ours: refreshed, 1 misses"),
    ] {
        let mut rest = vec![(Event::Missed(holding(stored, status)), again)];
        rest.extend(ends("release: stored", fresh));
        path(again, None, answered(session(DID), PAIR, rest));
    }

    let copy = "n over n, ours: refreshed, 1 misses";
    let older_copy = || holding(refresh("n", 150), "active");
    let end = "end: superseded, fresh";
    let mut rest = vec![(Event::Missed(older_copy()), copy)];
    rest.extend(ends("release: stored", end));
    path("an older copy", None, answered(session(DID), PAIR, rest));
    let mut rest = vec![
        (Event::Missed(older_copy()), copy),
        (Event::Missed(holding(used(), "active")), "n over u, ours: refreshed, 2 misses"),
    ];
    rest.extend(ends("release: stored", fresh));
    path("an older copy, then the old pair", None, answered(session(DID), PAIR, rest));

    for stored in [refresh("n", 250), refresh("c", 150)] {
        let note = note(stored.jti());
        let newer = || holding(stored.clone(), "active");
        let mut steps = answered(session(DID), PAIR, vec![]);
        steps.push((Event::Missed(newer()), &note));
        steps.push((Event::Saved, "release: superseded"));
        steps.push((Event::Released, superseded));
        path("newer", None, steps);
        let mut steps = answered(session(DID), PAIR, vec![]);
        steps.push((Event::Missed(newer()), &note));
        steps.push((Event::Missed(newer()), "release: superseded"));
        steps.push((Event::Released, superseded));
        path("newer, and its note misses", None, steps);
    }
}

#[test]
fn a_missed_verdict_is_done_or_dropped() {
    let revoked = || permanent(Outcome::Revoked);
    let write = "revoked over u, ours: revoked, 0 misses";
    let stored = || document(StoredToken::Token(used()), "revoked");
    for (name, document, end) in [
        ("ours", noted(stored(), Some("u"), Some(600), NOW), "end: revoked, again in 600 s"),
        ("another moment", noted(stored(), Some("u"), Some(600), NOW - 1), "end: superseded"),
        ("another time", noted(stored(), Some("u"), Some(601), NOW), "end: superseded"),
        ("another token", noted(stored(), Some("c"), Some(600), NOW), "end: superseded"),
        ("nothing", stored(), "end: superseded"),
    ] {
        let rest =
            vec![(Event::Missed(Some(document)), "release: refused"), (Event::Released, end)];
        let report = path(name, None, answered(revoked(), write, rest));
        assert!(report.error.is_some(), "{name}");
    }
    let rest =
        vec![(Event::Missed(None), "release: refused"), (Event::Released, "end: superseded")];
    path("gone", None, answered(revoked(), write, rest));
}
