//! From HTTP to meaning: what a status and a body say about the session. Pure.
//!
//! The rule that shapes it: only an answer that can have come from nobody but a server that knows
//! the account ends a session. Whatever a proxy, a captive portal or a mistake of our own could
//! have caused is [`Answer::Unreachable`].

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::domain::answer::{Answer, Session};
use crate::domain::backoff::{SHORTEST_RETRY_AFTER, UNSAID_RETRY_AFTER};
use crate::domain::identity::ServiceUrl;
use crate::domain::outcome::Outcome;
use crate::domain::session::{AccessJwt, Pair, RefreshJwt};

use super::limits::Limits;

/// The longest reason, in characters.
const MAX_REASON: usize = 200;
/// The longest `status` of an account that is kept, in characters.
const MAX_ACCOUNT_STATUS: usize = 64;
/// From this length on, in bytes, a word of a server's that could be a token, or a piece of one,
/// is not repeated. The shortest readable token is longer; DIDs of did:plc and most hosts are
/// shorter.
const TOKEN_LIKE: usize = 32;

/// What the answer to `refreshSession` means.
pub(super) fn meaning(service: &ServiceUrl, status: u16, limits: &Limits, body: &[u8]) -> Answer {
    match status {
        200 => match session(body) {
            Ok(session) => Answer::Session(Box::new(session)),
            Err(why) => unreachable(service, &format!("answered 200 with {why}"), true),
        },
        429 => {
            let wait = limits.wait().unwrap_or(UNSAID_RETRY_AFTER);
            Answer::RateLimited(wait.max(SHORTEST_RETRY_AFTER))
        }
        300..=399 => {
            let what = format!("redirects elsewhere ({status}); redirects are not followed");
            unreachable(service, &what, false)
        }
        400 | 401 | 403 => refusal(service, status, limits, body),
        _ => error(service, status, &XrpcError::read(body)),
    }
}

/// No usable answer, to a request that the server may have seen and spent the token for.
pub(super) fn unreachable(service: &ServiceUrl, what: &str, may_have_spent: bool) -> Answer {
    Answer::Unreachable { why: reason(service, what), may_have_spent }
}

/// What is wrong with a server, as a sentence: `what` follows its name.
pub(super) fn reason(service: &ServiceUrl, what: &str) -> String {
    cut(&format!("{service} {what}"), MAX_REASON)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionBody<'a> {
    #[serde(borrow)]
    access_jwt: Cow<'a, str>,
    #[serde(borrow)]
    refresh_jwt: Cow<'a, str>,
    did: String,
    /// Of any type, as neither is worth losing a session over.
    handle: Option<Value>,
    status: Option<Value>,
}

fn session(body: &[u8]) -> Result<Session, String> {
    // serde's own message could quote the body.
    let body: SessionBody<'_> = serde_json::from_slice(body)
        .map_err(|_json| "something that is not a session".to_owned())?;
    let access =
        AccessJwt::parse(&body.access_jwt).map_err(|why| format!("an access token that {why}"))?;
    let refresh = RefreshJwt::parse(&body.refresh_jwt)
        .map_err(|why| format!("a refresh token that {why}"))?;
    let handle = body.handle.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    let account_status =
        body.status.as_ref().and_then(Value::as_str).map(|text| cut(text, MAX_ACCOUNT_STATUS));
    let pair = Pair { access, refresh };
    Ok(Session { pair, did: body.did, handle, account_status })
}

/// An XRPC error (<https://atproto.com/specs/xrpc#error-responses>); both empty if it is none.
#[derive(Default)]
struct XrpcError {
    name: String,
    message: String,
}

impl XrpcError {
    fn read(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { name: text("error"), message: text("message") }
    }
}

/// The reference server says these with 400 and 401; other servers differ in the status alone.
fn refusal(service: &ServiceUrl, status: u16, limits: &Limits, body: &[u8]) -> Answer {
    let said = XrpcError::read(body);
    let permanent = |outcome| Answer::Permanent { outcome, said_at: limits.sent_at };
    match said.name.as_str() {
        // One name for two things, told apart by the message. Any other wording is taken by the
        // name: the server does say that this token is over, both verdicts are probed again
        // alike, and a session that is left "active" would never be reported to its owner.
        "ExpiredToken" if said.message.to_ascii_lowercase().contains("revoked") => {
            permanent(Outcome::Revoked)
        }
        "ExpiredToken" => permanent(Outcome::Expired),
        "InvalidToken" => permanent(Outcome::InvalidToken),
        "AccountTakedown" => Answer::TakenDown,
        "InvalidRequest" if said.message.starts_with("Could not find user info for account") => {
            permanent(Outcome::AccountGone)
        }
        _ => error(service, status, &said),
    }
}

fn error(service: &ServiceUrl, status: u16, said: &XrpcError) -> Answer {
    let text = match (said.name.as_str(), said.message.as_str()) {
        ("", _) => format!("answered {status}, without an XRPC error"),
        (name, "") => format!("answered {status} {}", discreet(name)),
        (name, message) => format!("answered {status} {}: {}", discreet(name), discreet(message)),
    };
    // What was turned down was not carried out; 408 and 499 are a proxy's words for lost patience.
    let turned_down = (400..500).contains(&status) && status != 408 && status != 499;
    unreachable(service, &text, !turned_down)
}

/// A server's own words, without anything that could be a token: it may echo ours, or name new
/// ones.
fn discreet(text: &str) -> String {
    let in_token = |c: char| c.is_ascii_alphanumeric() || "-_.=".contains(c);
    text.split_inclusive(|c| !in_token(c))
        .map(|word| if word.len() > TOKEN_LIKE { "[…] " } else { word })
        .collect()
}

/// One line of at most `longest` characters.
fn cut(text: &str, longest: usize) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = line.take(longest + 1).collect();
    if let Some((end, _)) = short.char_indices().nth(longest) {
        short.truncate(end);
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::domain::session::tests::token;

    const GONE: &str = "Could not find user info for account: did:plc:ewvi7nxzyoun6zhxrhs64oiz";

    fn service() -> ServiceUrl {
        "https://pds.example.com".parse().unwrap()
    }

    fn answered(status: u16, body: &str) -> Answer {
        meaning(&service(), status, &Limits::default(), body.as_bytes())
    }

    fn said(status: u16, error: &str, message: &str) -> Answer {
        answered(status, &json!({"error": error, "message": message}).to_string())
    }

    fn reason(answer: Answer) -> String {
        match answer {
            Answer::Unreachable { why, .. } => why,
            other => panic!("{other:?} is not unreachable"),
        }
    }

    fn refresh_token() -> String {
        token(&json!({
            "scope": "com.atproto.refresh", "sub": "did:plc:a", "aud": "did:web:pds.example.com",
            "jti": "next", "iat": 1, "exp": 2,
        }))
    }

    fn good() -> Value {
        json!({
            "accessJwt": token(&json!({"sub": "did:plc:a", "iat": 1, "exp": 7_201})),
            "refreshJwt": refresh_token(),
            "did": "did:plc:a",
            "handle": "alice.test",
            "email": "a@example.com", "emailConfirmed": true, "active": true,
            "didDoc": {"id": "did:plc:a", "service": [{"id": "#atproto_pds"}]},
        })
    }

    fn with(key: &str, value: Value) -> String {
        let mut body = good();
        body[key] = value;
        body.to_string()
    }

    #[test]
    fn a_session() {
        let deactivated = with("status", json!("deactivated"));
        let odd_status = with("status", json!(7));
        let long_status = with("status", json!("s".repeat(1_000)));
        let good = good().to_string();
        for (body, status) in [
            (&good, None),
            (&deactivated, Some("deactivated".to_owned())),
            (&odd_status, None),
            (&long_status, Some(format!("{}…", "s".repeat(63)))),
        ] {
            let Answer::Session(session) = answered(200, body) else { panic!("{body}") };
            assert_eq!(
                (session.did.as_str(), session.handle.as_str()),
                ("did:plc:a", "alice.test")
            );
            assert_eq!(session.pair.refresh.jti(), "next");
            assert_eq!(session.pair.access.expires_at().timestamp(), 7_201);
            assert_eq!(session.account_status, status);
        }
    }

    #[test]
    fn no_session_is_lost_for_want_of_a_handle() {
        for handle in [Value::Null, json!(7)] {
            let body = with("handle", handle);
            let Answer::Session(session) = answered(200, &body) else { panic!("{body}") };
            assert_eq!(session.handle, "");
        }
    }

    #[test]
    fn a_200_that_is_no_session() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for body in [
            String::new(),
            "<html>Welcome to the hotel</html>".to_owned(),
            "null".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            deep,
            with("did", Value::Null),
            with("accessJwt", json!(7)),
            with("accessJwt", json!("")),
            with("refreshJwt", json!("not.a.jwt")),
            with("refreshJwt", json!(token(&json!({"sub": "did:plc:a"})))),
            with("accessJwt", json!(token(&json!({"sub": "did:plc:a"})))),
        ] {
            let reason = reason(answered(200, &body));
            assert!(reason.starts_with("https://pds.example.com answered 200 with "), "{reason}");
        }
        let not_utf8 = meaning(&service(), 200, &Limits::default(), b"{\"did\":\"\xff\"}");
        assert!(matches!(not_utf8, Answer::Unreachable { may_have_spent: true, .. }));
    }

    #[test]
    fn verdicts_by_name_and_message() {
        for (status, name, message, outcome) in [
            (400, "ExpiredToken", "Token has been revoked", Outcome::Revoked),
            (400, "ExpiredToken", "Token has expired", Outcome::Expired),
            (401, "ExpiredToken", "Session was REVOKED", Outcome::Revoked),
            (400, "ExpiredToken", "", Outcome::Expired),
            (400, "ExpiredToken", "no such session", Outcome::Expired),
            (400, "InvalidToken", "Token could not be verified", Outcome::InvalidToken),
            (400, "InvalidRequest", GONE, Outcome::AccountGone),
        ] {
            let answer = said(status, name, message);
            assert!(
                matches!(answer, Answer::Permanent { outcome: it, .. } if it == outcome),
                "{name} {message}: {answer:?}"
            );
        }
        let taken_down = said(401, "AccountTakedown", "Account has been taken down");
        assert!(matches!(taken_down, Answer::TakenDown));
    }

    #[test]
    fn no_mistake_of_ours_or_of_a_proxy_is_a_verdict() {
        for (status, name, message) in [
            (401, "AuthMissing", "Authentication Required"),
            (400, "InvalidRequest", "A request body was provided when none was expected"),
            (400, "InvalidRequest", "Incorrect HTTP method (GET) expected POST"),
            (401, "AccountSomething", "new in some later version"),
            (403, "Forbidden", "by the firewall"),
            (404, "ExpiredToken", "Token has been revoked"),
            (500, "ExpiredToken", "Token has been revoked"),
            (500, "InternalServerError", "Internal Server Error"),
            (502, "UpstreamFailure", ""),
            (503, "AccountTakedown", "Account has been taken down"),
            (201, "ExpiredToken", "Token has expired"),
        ] {
            let reason = reason(said(status, name, message));
            let expected = format!("https://pds.example.com answered {status} {name}");
            assert!(reason.starts_with(&expected), "{reason}");
            assert!(reason.ends_with(message), "{reason}");
        }
        for body in ["", "<html>502</html>", "[]", "\"ExpiredToken\"", r#"{"error":7}"#] {
            for status in [204, 400, 401, 403, 404, 502] {
                let expected =
                    format!("https://pds.example.com answered {status}, without an XRPC error");
                assert_eq!(reason(answered(status, body)), expected, "{body}");
            }
        }
        for status in [301, 302, 303, 307, 308] {
            assert!(reason(answered(status, "")).contains("not followed"));
        }
    }

    #[test]
    fn over_the_limit() {
        for (said, asked) in [(Some(292), 292), (Some(0), 1), (None, 10)] {
            let limits = Limits { retry_after: said.map(Duration::from_secs), ..Limits::default() };
            for body in ["", r#"{"error":"RateLimitExceeded","message":"Rate Limit Exceeded"}"#] {
                let answer = meaning(&service(), 429, &limits, body.as_bytes());
                assert!(matches!(answer, Answer::RateLimited(wait) if wait.as_secs() == asked));
            }
        }
    }

    #[test]
    fn a_reason_is_one_short_line_without_a_token() {
        let ours = refresh_token();
        for echo in [
            format!("invalid header: Bearer {ours}"),
            format!("token={ours};"),
            ours.chars().take(60).collect(),
            format!("\u{1b}[31m{ours}\nnext line\0"),
            ours.replace('.', " . "),
        ] {
            for (name, message) in [("Odd", echo.as_str()), (echo.as_str(), "odd")] {
                let reason = reason(said(500, name, message));
                assert!(reason.chars().count() <= MAX_REASON, "{reason}");
                assert!(!reason.chars().any(char::is_control), "{reason}");
                for piece in ours.as_bytes().windows(TOKEN_LIKE + 1) {
                    assert!(!reason.contains(std::str::from_utf8(piece).unwrap()), "{reason}");
                }
            }
        }
        let long = reason(said(500, "Odd", &"ä ".repeat(5_000)));
        assert_eq!(long.chars().count(), MAX_REASON);
        assert!(long.ends_with('…'));
        assert!(reason(said(500, "Odd", GONE)).ends_with(GONE));
    }
}
