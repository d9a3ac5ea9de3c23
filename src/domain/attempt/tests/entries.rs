//! Attempts on accounts that the journal has an entry of.

use super::*;
use crate::domain::renewal::Lead;

/// An entry of `minutes` ago about a call with `token`.
fn intent(token: RefreshJwt, minutes: i64) -> Pending {
    let account = "6806a8c4302c4281518c95b2".parse().unwrap();
    let service = "https://pds.example".parse().unwrap();
    let at = now() - TimeDelta::minutes(minutes);
    Pending { intent: Intent { account, service, token, at }, answer: None }
}

fn rate_limited() -> Event {
    Event::Answered(Answer::RateLimited(Duration::from_secs(9)))
}

/// An entry with the answer that the call got.
fn answer_of(did: &str) -> Pending {
    let Event::Answered(Answer::Session(answer)) = session(did) else { unreachable!() };
    Pending { answer: Some(*answer), ..intent(used(), 1) }
}

#[test]
fn a_call_that_may_have_happened_is_asked_again() {
    let steps = answered(session(DID), PAIR, ends("release: stored", "end: refreshed, fresh"));
    path_with("known", Some("u"), Some(intent(used(), 1)), steps);

    // What this call did not do, the one before may have done.
    let unreachable = "a note over u, ours: unreachable, 0 misses";
    let limited = "a note over u, ours: rate_limited, 0 misses";
    for (name, answer, write, end) in [
        ("not sent this time", silence(false), unreachable, "end: unreachable, again in 0 s"),
        ("not served this time", rate_limited(), limited, "end: rate_limited, again in 9 s"),
    ] {
        let rest = vec![(Event::Backdated, write), (Event::Saved, end)];
        let steps = answered(answer, "backdate by 1 min", rest);
        path_with(name, Some("u"), Some(intent(used(), 1)), steps);
    }
    let end = "end: unreachable, again in 0 s";
    let steps = answered(silence(true), unreachable, vec![(Event::Saved, end)]);
    path_with("perhaps this time", Some("u"), Some(intent(used(), 1)), steps);
    let write = "revoked over u, ours: revoked, 0 misses";
    let end = ends("release: refused", "end: revoked, again in 600 s");
    let steps = answered(permanent(Outcome::Revoked), write, end);
    path_with("known to be over", Some("u"), Some(intent(used(), 1)), steps);
}

#[test]
fn a_call_that_may_have_happened_is_given_up() {
    let superseded = "end: superseded";
    for (name, stored, end) in [
        ("the trap: two links on", holding(refresh("c", 150), "active"), "release: moved_on"),
        ("a copy of its link", holding(refresh("u", 150), "inactive"), "release: moved_on"),
        ("nulled", Some(document(StoredToken::Null, "inactive")), "release: moved_on"),
        ("gone", None, "release: moved_on"),
        ("disconnected", holding(used(), "inactive"), "release: disconnected"),
    ] {
        let steps = vec![(Event::Loaded(stored), end), (Event::Released, superseded)];
        path_with(name, Some("u"), Some(intent(used(), 1)), steps);
    }
    // A job of its own goes on with the newer token, whose intent takes the entry's place.
    let steps = vec![
        (Event::Loaded(holding(refresh("c", 150), "active")), "spend at https://pds.example"),
        (Event::Granted, "intend https://pds.example with c"),
    ];
    let routing = Routing::new("https://bsky.social".parse().unwrap(), true, false);
    let id = "6806a8c4302c4281518c95b2".parse().unwrap();
    let pending = Some(intent(used(), 1));
    let (mut attempt, _) = Attempt::begin(POLICY, &routing, id, Some("c"), pending);
    for (event, expected) in steps {
        assert_eq!(told(&attempt.step(event, now(), 0.5)), expected);
    }
}

#[test]
fn an_entry_that_nobody_answers_ends_with_the_grace() {
    for (minutes, over) in [(179, false), (181, true)] {
        for (event, note, report) in [
            (
                Event::Denied(Duration::from_secs(7)),
                "a note over u, ours: rate_limited, 0 misses",
                "end: rate_limited, again in 7 s",
            ),
            (
                Event::OutOfReach(Duration::from_secs(40)),
                "a note over u, ours: unreachable, 0 misses",
                "end: unreachable, again in 45 s",
            ),
        ] {
            let mut steps = vec![
                (Event::Loaded(holding(used(), "active")), "spend at https://pds.example"),
                (event, note),
            ];
            let rest = ends("release: past_grace", report);
            steps.extend(if over { rest } else { vec![(Event::Saved, report)] });
            path_with(report, Some("u"), Some(intent(used(), minutes)), steps);
        }
    }
}

#[test]
fn a_call_that_certainly_spent_nothing_makes_an_old_entry_no_younger() {
    for (answer, write, end) in [
        (
            silence(false),
            "a note over u, ours: unreachable, 0 misses",
            "end: unreachable, again in 0 s",
        ),
        (
            rate_limited(),
            "a note over u, ours: rate_limited, 0 misses",
            "end: rate_limited, again in 9 s",
        ),
    ] {
        let steps = answered(answer, write, ends("release: past_grace", end));
        path_with(end, Some("u"), Some(intent(used(), 181)), steps);
    }
    // This one may have spent the token, just now.
    let write = "a note over u, ours: unreachable, 0 misses";
    let end = "end: unreachable, again in 0 s";
    let steps = answered(silence(true), write, vec![(Event::Saved, end)]);
    path_with("perhaps this time", Some("u"), Some(intent(used(), 181)), steps);
}

#[test]
fn a_wrong_clock_ends_no_entry_and_keeps_none_for_ever() {
    let ended = |minutes: i64, life: i64| {
        let claims = serde_json::json!({
            "sub": DID, "aud": "did:web:pds.example", "jti": "u", "iat": 100,
            "exp": NOW + 60 * life,
        });
        let token = RefreshJwt::parse(&token(&claims)).unwrap();
        intent(token, minutes).intent.is_past_grace(now())
    };
    let ahead = [ended(0, -525_600), ended(179, -525_600), ended(181, -525_600)];
    assert_eq!(ahead, [false, false, true], "a year ahead, the token looks over before the call");
    let set_back = [ended(-525_600, 100), ended(-525_600, -179), ended(-525_600, -181)];
    assert_eq!(set_back, [false, false, true], "of a call in the future the token's end counts");
}

#[test]
fn an_answer_in_the_journal_is_settled() {
    let loaded = Event::Loaded;
    let fresh = "end: refreshed, fresh";
    for (stored, again) in [
        (holding(used(), "active"), "n over u, ours: refreshed, 1 misses"),
        (holding(used(), "revoked"), "n over u, ours: refreshed, 1 misses"),
        (holding(used(), "inactive"), "n over u, foreign: refreshed, 1 misses"),
        (holding(refresh("o", 50), "error"), "n over o, ours: refreshed, 1 misses"),
    ] {
        let mut steps = vec![(loaded(stored), again)];
        steps.extend(ends("release: stored", fresh));
        path_with(again, None, Some(answer_of(DID)), steps);
    }
    let steps = vec![
        (loaded(holding(refresh("n", 200), "active")), "release: stored"),
        (Event::Released, fresh),
    ];
    path_with("had arrived", None, Some(answer_of(DID)), steps);

    for (name, stored, end) in [
        ("gone", None, "release: disconnected"),
        ("nulled", Some(document(StoredToken::Null, "active")), "release: disconnected"),
        ("foreign", Some(document(StoredToken::Unreadable, "active")), "release: superseded"),
        ("newer", holding(refresh("c", 150), "inactive"), "release: superseded"),
    ] {
        let steps = vec![(loaded(stored), end), (Event::Released, "end: superseded")];
        path_with(name, None, Some(answer_of(DID)), steps);
    }
    let refused = Event::Refused("error 121".to_owned());
    let steps = vec![
        (loaded(holding(used(), "active")), "n over u, ours: refreshed, 1 misses"),
        (refused, "end: unreachable"),
    ];
    path_with("refused, and kept", None, Some(answer_of(DID)), steps);

    let write = "error over u, ours: identity_mismatch, 0 misses";
    let mut steps = vec![(loaded(holding(used(), "active")), write)];
    steps.extend(ends("release: mismatch", "end: identity_mismatch, again in 855 s"));
    path_with("another's", None, Some(answer_of("did:plc:x")), steps);
    let steps = vec![
        (loaded(holding(refresh("c", 150), "active")), "release: mismatch"),
        (Event::Released, "end: superseded"),
    ];
    path_with("another's, moved on", None, Some(answer_of("did:plc:x")), steps);
}

/// Where this machine slept during a call, or crashed after it, less is left of the pair's life.
#[test]
fn a_pair_is_as_old_as_its_call() {
    let routing = Routing::new("https://bsky.social".parse().unwrap(), true, false);
    let id = "6806a8c4302c4281518c95b2".parse().unwrap();
    let policy = Policy { lead: Some(Lead::Share(0.25)), ..POLICY };
    let slept = TimeDelta::minutes(30);
    let due = |action: &Action| match action {
        Action::Save(save) => save.change.note.next_attempt_at.unwrap(),
        other => panic!("{}", told(other)),
    };
    let [at_once, late] = [now(), now() + slept].map(|answered| {
        let (mut attempt, _) = Attempt::begin(policy, &routing, id, None, None);
        for event in [Event::Loaded(holding(used(), "active")), Event::Granted, Event::Intended] {
            attempt.step(event, now(), 0.5);
        }
        attempt.step(session(DID), answered, 0.5);
        due(&attempt.step(Event::Kept, answered, 0.5))
    });
    assert_eq!(late, at_once);
    let pending = Pending { intent: intent(used(), 30).intent, ..answer_of(DID) };
    let (mut attempt, _) = Attempt::begin(policy, &routing, id, None, Some(pending));
    let save = attempt.step(Event::Loaded(holding(used(), "active")), now(), 0.5);
    assert_eq!(due(&save), at_once - slept);
}

/// The clock was ahead before the call, or jumped after it: by its word the token is over.
#[test]
fn a_clock_that_is_ahead_delays_no_repair_whose_server_is_out_of_reach() {
    let claims = serde_json::json!({
        "sub": DID, "aud": "did:web:pds.example", "jti": "u", "iat": 100, "exp": NOW - 1,
    });
    let over = RefreshJwt::parse(&token(&claims)).unwrap();
    for minutes in [1, 100_000] {
        let routing = Routing::new("https://bsky.social".parse().unwrap(), true, false);
        let id = "6806a8c4302c4281518c95b2".parse().unwrap();
        let pending = Some(intent(over.clone(), minutes));
        let (mut attempt, _) = Attempt::begin(POLICY, &routing, id, None, pending);
        let loaded = Event::Loaded(holding(over.clone(), "active"));
        let mut written = Vec::new();
        for event in [loaded, Event::Granted, Event::Intended, silence(false), Event::Backdated] {
            if let Action::Save(save) = attempt.step(event, now(), 0.5) {
                written.push(save.change.note.next_attempt_at.unwrap() - now());
            }
        }
        assert_eq!(written.len(), 1, "{minutes} min");
        assert!(written[0] < TimeDelta::minutes(1), "{minutes} min: {written:?}");
    }
}
