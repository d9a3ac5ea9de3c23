//! The command line, run as a person would.

use std::process::{Output, Stdio};

use mongodb::bson::doc;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::harness::daemon::Daemon;
use super::harness::fleet::Fleet;
use super::harness::scripted_pds::{Options, ScriptedPds};
use super::harness::world::World;
use super::harness::{PATIENCE, arrival};

const NOBODY: &str = "6806a8c4302c4281518c95b2";

/// A port on which nothing listens.
const CLOSED: &str = "1";

fn command(settings: &[(String, String)], words: &[&str]) -> (Command, TempDir) {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(crate::binary());
    command
        .args(words)
        .env_clear()
        .envs(settings.iter().cloned())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    (command, folder)
}

async fn run(settings: &[(String, String)], words: &[&str]) -> Output {
    let (mut command, _folder) = command(settings, words);
    tokio::time::timeout(PATIENCE, command.output()).await.expect("an end").unwrap()
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn away() -> Vec<(String, String)> {
    let mongo = format!("mongodb://127.0.0.1:{CLOSED}/app?serverSelectionTimeoutMS=500");
    [("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", CLOSED), ("MONGODB_URI", &mongo)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

#[tokio::test]
async fn help_is_an_answer() {
    for words in ["", "run", "check", "refresh", "accounts", "status", "adopt", "completions"] {
        let name = if words.is_empty() { "help".to_owned() } else { format!("help_{words}") };
        let words: Vec<_> = words.split_whitespace().chain(["--help"]).collect();
        let (status, out, err) = told(&run(&[], &words).await);
        assert_eq!((status, err.as_str()), (0, ""), "{words:?}");
        insta::assert_snapshot!(name, out);
    }
    let (status, out, _) = told(&run(&[], &["--version"]).await);
    assert_eq!((status, out), (0, format!("refreshd {}\n", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn mistakes_end_with_64_and_a_hint() {
    for (words, says) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["refresh"], "<--all|--account <ID>>"),
        (&["refresh", "--all", "--account", NOBODY], "cannot be used with"),
        (&["refresh", "--account", "alice"], "24 hexadecimal digits"),
        (&["accounts", "--colour"], "unexpected argument"),
        (&["completions", "cmd"], "possible values"),
    ] {
        let (status, out, err) = told(&run(&away(), words).await);
        assert_eq!((status, out.as_str()), (64, ""), "{words:?}: {err}");
        assert!(err.contains(says), "{words:?}: {err}");
    }
}

#[tokio::test]
async fn a_bad_configuration_ends_with_78_and_all_its_problems() {
    let settings = [("REDIS_PORT", "0"), ("PDS_TIMEOUT", "soon")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for words in [&[][..], &["run"], &["check"], &["status"], &["refresh", "--all"]] {
        let (status, out, err) = told(&run(&settings, words).await);
        assert_eq!((status, out.as_str()), (78, ""), "{words:?}: {err}");
        for name in ["REDIS_PORT", "PDS_TIMEOUT", "MONGODB_URI"] {
            assert!(err.contains(name), "{words:?}: {err}");
        }
    }
}

#[tokio::test]
async fn services_that_cannot_be_reached_are_named_with_69() {
    for words in
        [&["status"][..], &["accounts"], &["refresh", "--all"], &["refresh", "--account", NOBODY]]
    {
        let (status, out, err) = told(&run(&away(), words).await);
        assert_eq!((status, out.as_str()), (69, ""), "{words:?}: {err}");
        assert!(err.contains("redis at 127.0.0.1:1 "), "{err}");
        assert!(err.contains("MongoDB at 127.0.0.1:1"), "{err}");
    }
    let (status, out, _) = told(&run(&away(), &["check"]).await);
    assert_eq!(status, 69);
    for what in ["Redis", "MongoDB"] {
        assert!(out.lines().any(|line| line.starts_with("FAILED") && line.contains(what)), "{out}");
    }
    assert!(out.contains("refreshd would NOT work here"), "{out}");
}

#[tokio::test]
async fn completions_are_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, out, _) = told(&run(&[], &["completions", shell]).await);
        assert_eq!(status, 0);
        assert!(out.contains("refreshd") && out.contains("accounts"), "{shell}");
    }
}

#[tokio::test]
async fn accounts_are_listed_for_people_and_for_programs() {
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
    let settings = world.settings(pds.url().as_str());
    let (status, out, err) = told(&run(&settings, &["accounts"]).await);
    assert_eq!(
        (status, out.as_str(), err.as_str()),
        (0, "", "there are no Bluesky accounts in app.socialaccounts\n")
    );

    let session = pds.create(1).remove(0);
    let id = world.log_in(&session.did, &session.handle, &session.access, &session.refresh).await;
    let revoked = world.log_in("did:plc:b", "b.test", "x", "y").await;
    world
        .set(
            &revoked,
            doc! { "status": "revoked", "tokenRefresh": { "outcome": "revoked", "failures": 2 } },
        )
        .await;
    let broken = world.log_in("did:plc:c", "c.test", "x", "y").await;
    world
        .set(&broken, doc! { "platformUsername": 7, "status": ["x"], "tokenExpiry": "soon" })
        .await;

    let (status, out, err) = told(&run(&settings, &["accounts"]).await);
    assert_eq!((status, err.as_str()), (0, "3 accounts\n"));
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines.len() == 4, "{out}");
    assert!(
        lines[1].starts_with(&id)
            && lines[1].contains(&session.handle)
            && lines[1].contains("active"),
        "{out}"
    );

    let (_, out, _) = told(&run(&settings, &["accounts", "--json", "--status", "revoked"]).await);
    let row: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((row["id"].as_str(), row["failures"].as_u64()), (Some(revoked.as_str()), Some(2)));
    assert_eq!(
        (row["outcome"].as_str(), row["status"].as_str()),
        (Some("revoked"), Some("revoked"))
    );

    let (status, out, err) = told(&run(&settings, &["accounts", "--status", "gone"]).await);
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(
        err.contains("has the status \"gone\"; there are: (none) 1, active 1, revoked 1"),
        "{err}"
    );
    assert!(!format!("{out}{err}").contains(&session.refresh), "no token is ever shown");
}

#[tokio::test]
async fn a_reader_that_has_read_enough_is_no_error() {
    let world = World::start().await;
    let rows = (0..3_000).map(|n| {
        super::harness::world::login(
            &format!("did:plc:{n}"),
            &format!("a-long-handle-{n}.example.test"),
            "x",
            "y",
        )
    });
    world.accounts().insert_many(rows.collect::<Vec<_>>()).await.unwrap();
    for words in [&["accounts"][..], &["accounts", "--json"]] {
        let (mut command, _folder) = command(&world.settings("http://127.0.0.1:1"), words);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next_line().await.unwrap().is_some());
        drop(lines);
        let (status, _, err) = told(&child.wait_with_output().await.unwrap());
        assert_eq!((status, err.as_str()), (0, ""), "{words:?}");
    }
}

#[tokio::test]
async fn a_refresh_without_a_daemon_waits_for_one() {
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
    let settings = world.settings(pds.url().as_str());
    let (status, out, err) = told(&run(&settings, &["refresh", "--all"]).await);
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with("run-") && err.contains("no daemon is alive"), "{out}{err}");

    let (status, overview, _) = told(&run(&settings, &["status", "--json"]).await);
    let overview: Value = serde_json::from_str(&overview).unwrap();
    assert_eq!((status, overview["instances"].as_u64()), (0, Some(0)));
    assert_eq!(overview["runs"][0]["id"], *out.trim());
    assert_eq!(overview["runs"][0]["state"], "queued");
    assert_eq!(overview["runs"][0]["trigger"], "cli");
    let (status, text, _) = told(&run(&settings, &["status"]).await);
    assert_eq!(status, 0);
    for what in ["none is alive", "REFRESH_CRON is off", out.trim(), "manual"] {
        assert!(text.contains(what), "{what}: {text}");
    }

    let (status, out, err) = told(&run(&settings, &["refresh", "--account", NOBODY]).await);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains(
        "there is no Bluesky account with the id 6806a8c4302c4281518c95b2 in app.socialaccounts"
    ));
    let gone = world.log_in("did:plc:b", "b.test", "x", "y").await;
    world.set(&gone, doc! { "status": "inactive" }).await;
    let (status, _, err) = told(&run(&settings, &["refresh", "--account", &gone]).await);
    assert!(status == 1 && err.contains("was disconnected by its owner"), "{status} {err}");
}

#[tokio::test]
async fn a_refresh_is_followed_to_its_end() {
    let (world, pds) = tokio::join!(World::start(), ScriptedPds::start(Options::default()));
    let good = pds.create(1).remove(0);
    let id = world.log_in(&good.did, &good.handle, &good.access, &good.refresh).await;
    let daemon = world.daemon(pds.url().as_str(), &[]).await;
    let settings = world.settings(pds.url().as_str());

    let (status, out, err) = told(&run(&settings, &["refresh", "--account", &id, "--wait"]).await);
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with(&format!("{id}-")) && err.contains("refreshed"), "{out}{err}");

    let (status, out, err) = told(&run(&settings, &["refresh", "--all", "--wait"]).await);
    assert_eq!(status, 0, "{err}");
    assert!(
        out.contains("refreshed") && err.contains("1 account refreshed, none failed"),
        "{out}{err}"
    );

    let dead = world.log_in("did:plc:bbbbbbbbbbbbbbbbbbbbbbbb", "b.test", "x", "y").await;
    let (status, out, err) = told(&run(&settings, &["refresh", "--all", "--wait"]).await);
    assert_eq!(status, 1, "{err}");
    assert!(
        out.contains(&dead) && out.contains("malformed") && err.contains("1 failed"),
        "{out}{err}"
    );

    let (status, out, err) = told(&run(&settings, &["check"]).await);
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains("1 instance alive") && out.contains("refreshd would work here"), "{out}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_budget_that_is_too_small_is_told_before_anybody_lapses() {
    let (world, pds) = (World::start().await, ScriptedPds::start(Options::default()).await);
    let mut settings = world.settings(pds.url().as_str());
    settings.push(("KEEP_FRESH".to_owned(), "true".to_owned()));
    settings.push(("PDS_RATE_LIMIT".to_owned(), "6/m".to_owned()));
    // 900 need one call in six seconds, a tenth of a second is allowed.
    Fleet::of(&world, &pds, 900).await;

    let (status, out, _) = told(&run(&settings, &["check"]).await);
    let warning =
        format!("the 900 active accounts of {} need 0.2 calls a second, 0.1 are", pds.url());
    assert_eq!(status, 0, "{out}");
    assert!(
        out.lines().any(|line| line.starts_with("warning") && line.contains(&warning)),
        "{out}"
    );
    assert!(out.contains("EGRESS_ID"), "{out}");

    let (_, out, _) = told(&run(&settings, &["status"]).await);
    assert!(out.contains(&format!("Capacity   too little: {warning}")), "{out}");
    let (_, out, _) = told(&run(&settings, &["status", "--json"]).await);
    let status: Value = serde_json::from_str(&out).unwrap();
    let shortage = &status["shortages"][0];
    assert_eq!((&shortage["active"], &shortage["lapsing"]), (&900.into(), &180.into()), "{out}");

    settings.push(("ADMIN_LISTEN".to_owned(), "127.0.0.1:0".to_owned()));
    let daemon = Daemon::start(&settings).await;
    let line = daemon.log().wait(|line| line["event"] == "capacity").await;
    assert_eq!((&line["level"], &line["lapsing"]), (&"WARN".into(), &180.into()), "{line}");
    // It makes nothing unready.
    let body = arrival("ready", PATIENCE, async || {
        let (ready, body) = daemon.get("/readyz").await;
        (ready == 200).then_some(body)
    })
    .await;
    assert!(body["capacity"].as_str().is_some_and(|it| it.contains(&warning)), "{body}");
    drop(daemon);

    // Enough, or nothing to be kept: no word of it.
    for (name, value) in [("PDS_RATE_LIMIT", "8/s"), ("KEEP_FRESH", "false")] {
        settings.push((name.to_owned(), value.to_owned()));
        let (status, out, _) = told(&run(&settings, &["check"]).await);
        assert_eq!(status, 0, "{out}");
        assert!(
            out.lines().any(|line| line.starts_with("ok") && line.contains("capacity")),
            "{out}"
        );
        let (_, out, _) = told(&run(&settings, &["status"]).await);
        assert!(!out.contains("Capacity"), "{out}");
    }
}
