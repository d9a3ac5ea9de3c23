//! The XRPC client against a scripted server: what each failure means, and that no call is ever
//! made twice.

use std::time::Duration;

use futures::future::join_all;
use refreshd::domain::answer::{Answer, Session};
use refreshd::domain::identity::ServiceUrl;
use refreshd::domain::outcome::Outcome;
use refreshd::domain::session::RefreshJwt;
use refreshd::pds::{Client, ClientConfig, MAX_ANSWER_BYTES, PdsError, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::scripted_pds::{self, Fault, Options, ScriptedPds};

const PATIENT: Duration = Duration::from_mins(1);
const HASTY: Duration = Duration::from_millis(500);

fn client(home: &ServiceUrl, timeout: Duration) -> Client {
    let routing_home = home.clone();
    let config = ClientConfig { timeout, routing_home, allow_private: false, max_idle_per_host: 8 };
    Client::new(&config).unwrap()
}

fn token(text: &str) -> RefreshJwt {
    RefreshJwt::parse(text).unwrap()
}

async fn server() -> (ScriptedPds, Client, scripted_pds::Session) {
    let pds = ScriptedPds::start(Options::default()).await;
    let client = client(&pds.url(), PATIENT);
    let session = pds.create(1).remove(0);
    (pds, client, session)
}

async fn ask(client: &Client, pds: &ScriptedPds, refresh: &str) -> Reply {
    client.refresh_session(&pds.url(), &token(refresh)).await
}

async fn session(client: &Client, pds: &ScriptedPds, refresh: &str) -> Session {
    match ask(client, pds, refresh).await.answer {
        Answer::Session(session) => *session,
        other => panic!("no session: {other:?}"),
    }
}

fn reason(reply: &Reply) -> &str {
    match &reply.answer {
        Answer::Unreachable { why, .. } => why,
        other => panic!("not unreachable: {other:?}"),
    }
}

fn verdict(reply: &Reply) -> Outcome {
    match &reply.answer {
        Answer::Permanent { outcome, .. } => *outcome,
        other => panic!("no verdict: {other:?}"),
    }
}

/// One answer without a server behind it, and the request that it was for.
async fn capture(answer: &'static [u8]) -> (ServiceUrl, impl Future<Output = String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let request = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "the client hung up");
        }
        stream.write_all(answer).await.unwrap();
        String::from_utf8(seen).unwrap()
    };
    (url, request)
}

#[tokio::test]
async fn a_token_buys_the_next_pair() {
    let (pds, client, first) = server().await;
    assert!(pds.is_current(&first.refresh));
    let reply = ask(&client, &pds, &first.refresh).await;
    assert_eq!(reply.status, Some(200));
    let Answer::Session(second) = reply.answer else { panic!("{:?}", reply.answer) };
    assert_eq!((&second.did, &second.handle), (&first.did, &first.handle));
    assert_eq!(second.account_status, None);
    assert_eq!(second.pair.refresh.audience(), "did:web:127.0.0.1");
    assert!(pds.is_current(second.pair.refresh.expose()));
    assert!(pds.is_live(&first.refresh) && !pds.is_current(&first.refresh));
    pds.deactivate(&first.did);
    let third = session(&client, &pds, second.pair.refresh.expose()).await;
    assert_eq!(third.account_status.as_deref(), Some("deactivated"));
    assert_eq!((pds.calls(&first.did), pds.answers(200)), (2, 2));
}

#[tokio::test]
async fn the_request_is_as_the_reference_server_wants_it() {
    let (url, request) = capture(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    let pds = ScriptedPds::start(Options::default()).await;
    let refresh = pds.create(1).remove(0).refresh;
    let refresh = token(&refresh);
    let client = client(&url, PATIENT);
    let (reply, request) = tokio::join!(client.refresh_session(&url, &refresh), request);
    let mut lines: Vec<&str> = request.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "POST /xrpc/com.atproto.server.refreshSession HTTP/1.1");
    lines.sort_unstable();
    let authorization = format!("authorization: Bearer {}", refresh.expose());
    let host = url.as_str().replace("http://", "host: ");
    let agent = format!("user-agent: refreshd/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["accept: */*", &authorization, "content-length: 0", &host, &agent]);
    assert_eq!(reply.status, Some(500));
}

#[tokio::test]
async fn rotation_is_the_reference_servers() {
    let (pds, client, a) = server().await;
    let b = session(&client, &pds, &a.refresh).await.pair.refresh;
    let again = session(&client, &pds, &a.refresh).await.pair.refresh;
    assert_eq!(again.jti(), b.jti(), "within the grace: a copy of the same link");
    pds.advance(Duration::from_hours(1));
    let c = session(&client, &pds, b.expose()).await.pair.refresh;
    let late = session(&client, &pds, &a.refresh).await.pair.refresh;
    assert_eq!(late.jti(), b.jti(), "a spent link, however fresh it looks");
    assert!(late.issued_at() >= c.issued_at() && late.expires_at() > b.expires_at());
    pds.advance(Duration::from_mins(61));
    assert!(!pds.is_live(&a.refresh));
    assert_eq!(verdict(&ask(&client, &pds, &a.refresh).await), Outcome::Revoked);
    assert!(pds.is_live(late.expose()) && !pds.is_current(late.expose()));
    pds.advance(Duration::from_hours(1));
    assert!(!pds.is_live(late.expose()), "the copy shares the spent link's shortened life");
    assert!(pds.is_current(c.expose()));
    let other = pds.login(&a.did);
    session(&client, &pds, &other.refresh).await;
    pds.end_grace(&a.did);
    assert!(pds.is_current(c.expose()) && !pds.is_live(&other.refresh));
}

#[tokio::test]
async fn a_server_without_grace() {
    let pds = ScriptedPds::start(Options { grace: Duration::ZERO, ..Options::default() }).await;
    let client = client(&pds.url(), PATIENT);
    let a = pds.create(1).remove(0);
    let b = session(&client, &pds, &a.refresh).await.pair.refresh;
    assert_eq!(verdict(&ask(&client, &pds, &a.refresh).await), Outcome::Revoked);
    session(&client, &pds, b.expose()).await;
}

#[tokio::test]
async fn what_ends_a_session() {
    let (pds, client, first) = server().await;
    let expired = ask(&client, &pds, &pds.expire(&first.refresh)).await;
    assert_eq!((verdict(&expired), expired.status), (Outcome::Expired, Some(400)));
    let forged = format!("{}x", first.refresh);
    assert_eq!(verdict(&ask(&client, &pds, &forged).await), Outcome::InvalidToken);
    pds.take_down(&first.did);
    let reply = ask(&client, &pds, &first.refresh).await;
    assert!(matches!(reply.answer, Answer::TakenDown), "{:?}", reply.answer);
    assert_eq!(reply.status, Some(401));
    pds.reinstate(&first.did);
    let second = session(&client, &pds, &first.refresh).await.pair.refresh;
    pds.revoke(&first.did);
    assert_eq!(verdict(&ask(&client, &pds, second.expose()).await), Outcome::Revoked);
    pds.delete(&first.did);
    assert_eq!(verdict(&ask(&client, &pds, second.expose()).await), Outcome::AccountGone);
}

#[tokio::test]
async fn trouble_says_nothing_about_the_account() {
    let (pds, client, first) = server().await;
    let other = pds.url().to_string() + "/elsewhere";
    for (fault, status, says) in [
        (Fault::html(502), Some(502), "answered 502"),
        (Fault::html(200), Some(200), "something that is not a session"),
        (Fault::answer(302, "").with_header("location", &other), Some(302), "not followed"),
        (Fault::answer(401, r#"{"error":"AuthMissing"}"#), Some(401), "AuthMissing"),
        (Fault::answer(500, "{}"), Some(500), "answered 500"),
        (Fault::Huge, Some(200), "too large"),
        (Fault::Chunked(usize::MAX), Some(200), "too large"),
        (Fault::Chunked(MAX_ANSWER_BYTES + 1), Some(200), "too large"),
        (Fault::Chunked(MAX_ANSWER_BYTES), Some(200), "something that is not a session"),
        (Fault::answer(500, &" ".repeat(MAX_ANSWER_BYTES + 1)), Some(500), "too large"),
        (Fault::answer(500, &" ".repeat(MAX_ANSWER_BYTES)), Some(500), "answered 500"),
        (Fault::DropBefore, None, "broke off"),
        (Fault::DropAfter, None, "broke off"),
    ] {
        let before = pds.total_calls();
        pds.fail_next_of(&first.did, 1, &fault);
        let reply = ask(&client, &pds, &first.refresh).await;
        let reason = reason(&reply);
        assert!(reason.starts_with(pds.url().as_str()) && reason.contains(says), "{reason}");
        assert_eq!(reply.status, status, "{fault:?}");
        assert_eq!(pds.total_calls(), before + 1, "{fault:?}: one call, no more");
    }
    assert_eq!(pds.answers(0), 2);
    pds.fail_next(1, &Fault::WrongDid);
    assert_ne!(session(&client, &pds, &first.refresh).await.did, first.did);
}

#[tokio::test]
async fn an_echoed_token_goes_no_further() {
    let (pds, client, first) = server().await;
    let body = serde_json::json!({"error": "Odd", "message": format!("Bearer {}", first.refresh)});
    pds.fail_next(1, &Fault::answer(500, &body.to_string()));
    let reply = ask(&client, &pds, &first.refresh).await;
    for part in first.refresh.split('.') {
        assert!(!reason(&reply).contains(part), "{}", reason(&reply));
    }
}

#[tokio::test]
async fn every_wait_has_an_end() {
    let (pds, _, first) = server().await;
    let hasty = client(&pds.url(), HASTY);
    for fault in [Fault::Hang, Fault::HangAfter, Fault::SlowLoris] {
        pds.fail_next(1, &fault);
        let call = ask(&hasty, &pds, &first.refresh);
        let reply = tokio::time::timeout(PATIENT, call).await.expect("the call never ends");
        assert!(reason(&reply).ends_with("did not answer in time"), "{}", reason(&reply));
    }
    pds.set_latency(PATIENT);
    assert_eq!(ask(&hasty, &pds, &first.refresh).await.status, None);
    assert_eq!(pds.calls(&first.did), 4);
}

#[tokio::test]
async fn no_server_at_all() {
    let (pds, client, first) = server().await;
    let url = pds.url();
    session(&client, &pds, &first.refresh).await;
    pds.stop().await;
    let reply = client.refresh_session(&url, &token(&first.refresh)).await;
    assert!(reason(&reply).contains("cannot be connected to"), "{}", reason(&reply));
    let nowhere: ServiceUrl = "https://nowhere.invalid".parse().unwrap();
    let reply = client.refresh_session(&nowhere, &token(&first.refresh)).await;
    assert!(reason(&reply).contains("cannot be connected to"), "{}", reason(&reply));
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls() {
    let pds = ScriptedPds::start(Options::default()).await;
    let secure: ServiceUrl = pds.url().as_str().replace("http:", "https:").parse().unwrap();
    let refresh = token(&pds.create(1).remove(0).refresh);
    let reply = client(&secure, PATIENT).refresh_session(&secure, &refresh).await;
    assert!(reason(&reply).contains("cannot be connected to"), "{}", reason(&reply));
    assert_eq!((pds.connections(), pds.total_calls()), (1, 0));
}

#[tokio::test]
async fn a_token_cannot_lead_into_the_private_network() {
    let pds = ScriptedPds::start(Options::default()).await;
    let refresh = token(&pds.create(1).remove(0).refresh);
    let home: ServiceUrl = "https://bsky.social".parse().unwrap();
    let port = pds.url().as_str().rsplit(':').next().unwrap().to_owned();
    let guarded = client(&home, PATIENT);
    for (service, says) in [
        (format!("http://127.0.0.1:{port}"), "is not an https server"),
        (format!("https://127.0.0.1:{port}"), "resolves to a private address"),
        (format!("https://localhost:{port}"), "resolves to a private address"),
    ] {
        let service: ServiceUrl = service.parse().unwrap();
        let reply = guarded.refresh_session(&service, &refresh).await;
        assert!(reason(&reply).contains(says), "{}", reason(&reply));
        assert!(reason(&reply).contains("PDS_ALLOW_PRIVATE"), "{}", reason(&reply));
    }
    assert_eq!(pds.connections(), 0);
    let config = ClientConfig {
        timeout: PATIENT,
        routing_home: home,
        allow_private: true,
        max_idle_per_host: 1,
    };
    let reply = Client::new(&config).unwrap().refresh_session(&pds.url(), &refresh).await;
    assert_eq!(reply.status, Some(200));
}

#[tokio::test]
async fn the_limit_is_told() {
    let limit = Some((2, Duration::from_mins(5)));
    let pds = ScriptedPds::start(Options { limit, ..Options::default() }).await;
    let client = client(&pds.url(), PATIENT);
    let sessions = pds.create(3);
    let first = ask(&client, &pds, &sessions[0].refresh).await;
    assert_eq!((first.limits.limit, first.limits.remaining), (Some(2), Some(1)));
    assert_eq!(first.limits.window, Some(Duration::from_mins(5)));
    let until_reset = first.limits.reset_at.unwrap() - pds.now();
    assert!((200..=300).contains(&until_reset.num_seconds()), "{until_reset}");
    assert_eq!(ask(&client, &pds, &sessions[1].refresh).await.limits.remaining, Some(0));
    let over = ask(&client, &pds, &sessions[2].refresh).await;
    let Answer::RateLimited(wait) = over.answer else { panic!("{:?}", over.answer) };
    assert!((200..=300).contains(&wait.as_secs()), "{wait:?}");
    assert!(pds.is_current(&sessions[2].refresh), "nothing was spent");
    pds.advance(wait);
    pds.fail_next(3, &Fault::rate_limited(7));
    let reply = ask(&client, &pds, &sessions[2].refresh).await;
    let Answer::RateLimited(wait) = reply.answer else { panic!("{:?}", reply.answer) };
    assert_eq!(wait, Duration::from_secs(7));
    pds.recover();
    session(&client, &pds, &sessions[2].refresh).await;
}

/// The case in which an HTTP library is tempted: the connection was used before, so a closed one
/// could be a left-over. But the request was written, and the token may be spent.
#[tokio::test]
async fn a_lost_reply_on_a_reused_connection_is_not_asked_for_again() {
    let (pds, client, first) = server().await;
    for fault in [Fault::DropAfter, Fault::DropBefore] {
        let warm = pds.create(1).remove(0);
        session(&client, &pds, &warm.refresh).await;
        let (calls, connections) = (pds.total_calls(), pds.connections());
        pds.fail_next(1, &fault);
        let reply = ask(&client, &pds, &first.refresh).await;
        assert!(reason(&reply).contains("broke off"), "{}", reason(&reply));
        assert_eq!(pds.connections(), connections, "the connection was a used one");
        assert_eq!(pds.total_calls(), calls + 1, "{fault:?}");
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let (pds, client, first) = server().await;
    let mut refresh = token(&first.refresh);
    for _ in 0..1_000 {
        refresh = session(&client, &pds, refresh.expose()).await.pair.refresh;
    }
    assert!(pds.is_current(refresh.expose()));
    assert_eq!((pds.calls(&first.did), pds.connections()), (1_000, 1));
}

#[tokio::test]
async fn calls_go_side_by_side() {
    let (pds, client, _) = server().await;
    pds.set_latency(Duration::from_millis(300));
    let sessions = pds.create(64);
    let replies = join_all(sessions.iter().map(|it| ask(&client, &pds, &it.refresh))).await;
    for (session, reply) in sessions.iter().zip(replies) {
        let Answer::Session(answer) = reply.answer else { panic!("{:?}", reply.answer) };
        assert_eq!(answer.did, session.did, "no answer goes to somebody else");
    }
    assert!(pds.most_in_flight() > 8, "{}", pds.most_in_flight());
}

#[tokio::test]
async fn whether_a_server_is_there() {
    let (pds, client, _) = server().await;
    client.reachable(&pds.url()).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>hi</html>";
    let (hotel, request) = capture(answer).await;
    let at_the_hotel = self::client(&hotel, PATIENT);
    let (found, _) = tokio::join!(at_the_hotel.reachable(&hotel), request);
    let Err(PdsError::Unreachable(reason)) = found else { panic!("{found:?}") };
    assert_eq!(reason, format!("{hotel} is not an AT Protocol server"));
    let url = pds.url();
    pds.stop().await;
    let error = client.reachable(&url).await.unwrap_err().to_string();
    assert!(error.contains("cannot be connected to"), "{error}");
}
