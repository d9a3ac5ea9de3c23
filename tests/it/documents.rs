//! Documents that are not as they should be: none stops a run, and foreign ones are not touched.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use futures::future::join;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use serde_json::{Value, json};

use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Options, ScriptedPds, Session};
use super::harness::world::{World, login, text};

/// What is to come of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is as good as any.
    Refreshed,
    /// It fails, and nothing is written.
    Malformed,
    /// It fails, and says so.
    NoRefreshToken,
    /// It is nobody's business; the daemon may keep its own notes there.
    LeftAlone,
    /// Not a bit of it changes.
    Untouched,
}

use Fate::{LeftAlone, Malformed, NoRefreshToken, Refreshed, Untouched};

/// A good document, with one field changed; `None`: without it.
fn bent(session: &Session, field: &str, value: Option<Bson>) -> Document {
    let mut document = login(&session.did, &session.handle, &session.access, &session.refresh);
    match value {
        Some(value) => {
            document.insert(field, value);
        }
        None => {
            document.remove(field);
        }
    }
    document
}

fn oddities() -> Vec<Option<Bson>> {
    vec![
        None,
        Some(Bson::Null),
        Some(Bson::Int32(7)),
        Some(Bson::Boolean(true)),
        Some(Bson::Array(vec![Bson::Null, "x".into()])),
        Some(doc! { "a": { "b": 1 } }.into()),
        Some(Bson::String("x".to_owned())),
        Some(Bson::String("x".repeat(1_000_000))),
    ]
}

/// What comes of a document whose `field` is `value`.
fn fate(field: &str, value: Option<&Bson>) -> Fate {
    match (field, value) {
        ("refreshToken", None | Some(Bson::Null)) => NoRefreshToken,
        ("refreshToken" | "platformAccountId", _) => Malformed,
        ("status", _) => LeftAlone,
        ("platform", _) => Untouched,
        _ => Refreshed,
    }
}

fn cases(pds: &ScriptedPds) -> Vec<(String, Document, Fate)> {
    let fields = [
        "userId",
        "platform",
        "platformAccountId",
        "platformUsername",
        "displayName",
        "accessToken",
        "refreshToken",
        "tokenExpiry",
        "status",
        "errorMessage",
        "scope",
        "metadata",
        "createdAt",
        "updatedAt",
        "__v",
        "tokenRefresh",
    ];
    let mut cases = Vec::new();
    let mut add = |name: String, field: &str, value: Option<Bson>, fate: Fate| {
        let session = pds.create(1).remove(0);
        cases.push((name, bent(&session, field, value), fate));
    };
    for field in fields {
        for value in oddities() {
            let name = format!("{field} is {:.30}", format!("{value:?}"));
            let fate = fate(field, value.as_ref());
            add(name, field, value, fate);
        }
    }
    for (field, value, fate) in [
        ("platform", "tiktok", Untouched),
        ("platform", "Bluesky", Untouched),
        ("status", "inactive", LeftAlone),
        ("status", "paused", LeftAlone),
        ("status", "", LeftAlone),
        ("refreshToken", "", NoRefreshToken),
        ("refreshToken", "a.b.c", Malformed),
        ("platformAccountId", "did:plc:", Malformed),
        ("platformAccountId", "alice.bsky.social", Malformed),
        ("platformAccountId", "", Malformed),
        ("_id", "no object id", LeftAlone),
    ] {
        add(format!("{field} is {value:?}"), field, Some(value.into()), fate);
    }
    for (field, value) in [
        ("service", Bson::Int32(1)),
        ("service", "not a url".into()),
        ("service", doc! { "x": 1 }.into()),
        ("failures", "many".into()),
        ("failures", Bson::Int64(i64::MAX)),
        ("nextAttemptAt", "soon".into()),
        ("nextAttemptAt", Bson::DateTime(mongodb::bson::DateTime::MAX)),
        ("refreshedAt", Bson::Int32(1)),
        ("refreshedAt", "yesterday".into()),
        ("judgedJti", Bson::Array(Vec::new())),
        ("outcome", "never heard of".into()),
    ] {
        let name = format!("tokenRefresh.{field} is {value}");
        add(name, "tokenRefresh", Some(doc! { field: value }.into()), Refreshed);
    }
    cases
}

async fn all_bytes(world: &World) -> BTreeMap<String, RawDocumentBuf> {
    let raw = world.database().collection::<RawDocumentBuf>("socialaccounts");
    let all: Vec<_> = raw.find(doc! {}).await.expect("a read").try_collect().await.expect("all");
    let document = |raw: &RawDocumentBuf| Document::try_from(raw.clone()).expect("a document");
    all.into_iter().map(|raw| (id(&document(&raw)), raw)).collect()
}

fn id(document: &Document) -> String {
    document.get("_id").expect("an id").to_string()
}

fn without_notes(raw: &RawDocumentBuf) -> Document {
    let mut document = Document::try_from(raw.clone()).expect("a document");
    document.remove("tokenRefresh");
    document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_over_every_kind_of_bad_document_refreshes_the_good_and_says_what_is_wrong() {
    let (world, pds) = join(World::start(), ScriptedPds::start(Options::default())).await;
    let fleet = Fleet::of(&world, &pds, 50).await;
    let cases = cases(&pds);
    world
        .accounts()
        .insert_many(cases.iter().map(|(_, document, _)| document))
        .await
        .expect("an insert");
    let more = Fleet::of(&world, &pds, 50).await;
    let before = all_bytes(&world).await;

    let daemon = world.daemon(&pds.url().to_string(), &[]).await;
    let run = daemon.refresh_all().await;

    let of = |fate: Fate| cases.iter().filter(|case| case.2 == fate).count();
    // A `nextAttemptAt` beyond every rule is due at once: its retry may come before the run does.
    let left_out = usize::from(run["leftOut"] == 1);
    let expected = json!({
        "refreshed": 100 + of(Refreshed) - left_out, "malformed": of(Malformed),
        "no_refresh_token": of(NoRefreshToken),
    });
    assert_eq!(run["outcomes"], expected);
    assert_eq!(run["failed"], of(Malformed) + of(NoRefreshToken));
    assert_eq!(run["failures"].as_array().map(Vec::len), Some(of(Malformed) + of(NoRefreshToken)));
    fleet.assert_current(&world).await;
    more.assert_current(&world).await;

    let after = all_bytes(&world).await;
    for (name, document, fate) in &cases {
        let (was, is) = (&before[&id(document)], &after[&id(document)]);
        match fate {
            Untouched | Malformed => assert_eq!(was, is, "{name}"),
            LeftAlone => assert_eq!(without_notes(was), without_notes(is), "{name}"),
            NoRefreshToken => {
                let is = Document::try_from(is.clone()).expect("a document");
                assert_eq!(text(&is, "status"), "error", "{name}");
                assert!(text(&is, "errorMessage").contains("Log in again"), "{name}");
            }
            Refreshed => {
                let is = Document::try_from(is.clone()).expect("a document");
                assert_eq!(text(&is, "tokenRefresh.outcome"), "refreshed", "{name}");
                assert!(pds.is_current(text(&is, "refreshToken")), "{name}");
            }
        }
    }
    daemon.end_of_run(&run).await;
    assert_told_once(&cases, &daemon.log().matching(|line| line["event"] == "refresh"));
    let log = daemon.log().text();
    assert!(!log.contains(&"x".repeat(1_000)), "no long value is repeated in the log");

    // The next run knows no more and no less of them, and still ends.
    let again = daemon.refresh_all().await;
    assert_eq!(again["outcomes"]["malformed"], of(Malformed), "{again}");
    assert!(daemon.stop().await.success());
}

/// One line for each document that failed, with the reason.
fn assert_told_once(cases: &[(String, Document, Fate)], lines: &[Value]) {
    for (name, document, fate) in cases {
        let Ok(id) = document.get_object_id("_id").map(ObjectId::to_hex) else { continue };
        let mine: Vec<_> = lines.iter().filter(|line| line["account"] == id).collect();
        let (outcome, reason) = match fate {
            Malformed => ("malformed", true),
            NoRefreshToken => ("no_refresh_token", true),
            Refreshed => ("refreshed", false),
            LeftAlone | Untouched => {
                assert!(mine.is_empty(), "{name}: {mine:?}");
                continue;
            }
        };
        assert_eq!(mine.len(), 1, "{name}: {mine:?}");
        assert_eq!(mine[0]["outcome"], outcome, "{name}");
        assert_eq!(mine[0]["error"].as_str().is_some_and(|why| why.len() > 10), reason, "{name}");
    }
}

#[tokio::test]
async fn a_collection_without_a_single_account_is_done_at_once() {
    let (world, pds) = join(World::start(), ScriptedPds::start(Options::default())).await;
    let daemon = world.daemon(&pds.url().to_string(), &[]).await;
    let run = daemon.refresh_all().await;
    assert_eq!((&run["jobs"], &run["outcomes"]), (&json!(0), &json!({})), "{run}");
}
