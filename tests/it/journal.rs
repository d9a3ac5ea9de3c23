//! What a daemon does with the journal of a former life, with one that it cannot have, and with a
//! disk that refuses it.

use std::path::Path;
use std::time::Duration;

use futures::future::join;
use mongodb::bson::doc;
use refreshd::clock::Clock;
use refreshd::domain::answer::Session as Answer;
use refreshd::domain::identity::ServiceUrl;
use refreshd::domain::pending::Intent;
use refreshd::domain::session::{AccessJwt, Pair, RefreshJwt};
use refreshd::journal::Journal;
use serde_json::Value;
use tempfile::TempDir;

use super::harness::daemon::Daemon;
use super::harness::scripted_pds::{Fault, Options, ScriptedPds, Session};
use super::harness::world::{World, login, text};
use super::harness::{PATIENCE, arrival, eventually, http};

struct Stage {
    world: World,
    pds: ScriptedPds,
    state: TempDir,
}

impl Stage {
    /// A server that forgets a spent token at once: what is lost is lost.
    async fn set() -> Self {
        let options = Options { grace: Duration::ZERO, ..Options::default() };
        let (world, pds) = join(World::start(), ScriptedPds::start(options)).await;
        Self { world, pds, state: TempDir::new().expect("a folder") }
    }

    async fn log_in(&self) -> (String, Session) {
        let session = self.pds.create(1).remove(0);
        let Session { did, handle, access, refresh } = &session;
        let id = self.world.log_in(did, handle, access, refresh).await;
        (id, session)
    }

    fn settings(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut settings = self.world.settings(&self.pds.url().to_string());
        let state = self.state.path().display().to_string();
        let own = [("STATE_DIR", state.as_str())];
        let more = own.iter().chain(more);
        settings.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        settings
    }

    async fn daemon(&self) -> Daemon {
        Daemon::start(&self.settings(&[])).await
    }

    /// Leaves a call in the journal, and what it bought.
    async fn leave(&self, journal: &Journal, (id, session): &(String, Session), answered: bool) {
        let intent = intent(id, session, &self.pds.url());
        journal.intend(&intent).await.expect("room");
        if answered {
            let answer = self.refresh(session).await;
            journal.answer(intent.account, &answer).await.expect("room");
        }
    }

    /// Spends the session's token at the server.
    async fn refresh(&self, session: &Session) -> Answer {
        let url = format!("{}/xrpc/com.atproto.server.refreshSession", self.pds.url());
        let (status, answer) = http::client().post_empty(&url, &session.refresh).await;
        assert_eq!(status, 200, "{answer}");
        let token = |name: &str| answer[name].as_str().expect("a token").to_owned();
        let access = AccessJwt::parse(&token("accessJwt")).expect("a token");
        let refresh = RefreshJwt::parse(&token("refreshJwt")).expect("a token");
        let (did, handle) = (session.did.clone(), session.handle.clone());
        Answer { pair: Pair { access, refresh }, did, handle, account_status: None }
    }

    async fn is_current(&self, id: &str) -> bool {
        self.pds.is_current(text(&self.world.account(id).await, "refreshToken"))
    }
}

fn intent(id: &str, session: &Session, service: &ServiceUrl) -> Intent {
    Intent {
        account: id.parse().expect("an id"),
        service: service.clone(),
        token: RefreshJwt::parse(&session.refresh).expect("a token"),
        at: Clock::system().now(),
    }
}

fn open(dir: &Path) -> Journal {
    Journal::open(dir).expect("a journal").0
}

async fn list(stage: &Stage, words: &[&str]) -> (bool, String, String) {
    run(stage, &[&["journal"], words].concat()).await
}

/// Runs a command; answers whether it was content, and what it said where.
async fn run(stage: &Stage, words: &[&str]) -> (bool, String, String) {
    let output = tokio::process::Command::new(crate::binary())
        .args(words)
        .env_clear()
        .envs(stage.settings(&[]))
        .current_dir(stage.state.path())
        .output()
        .await
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn an_answer_of_a_former_life_is_stored_before_anything_new() {
    let stage = Stage::set().await;
    let accounts = [stage.log_in().await, stage.log_in().await, stage.log_in().await];
    let journal = open(stage.state.path());
    for account in &accounts {
        stage.leave(&journal, account, true).await;
    }
    // Meanwhile one was called dead, and one has logged in again.
    stage.world.set(&accounts[1].0, doc! { "status": "revoked", "errorMessage": "dead" }).await;
    let again = stage.pds.login(&accounts[2].1.did);
    let newer = doc! { "accessToken": &again.access, "refreshToken": &again.refresh };
    stage.world.set(&accounts[2].0, newer).await;
    journal.close().await;

    let daemon = stage.daemon().await;
    for (id, _) in &accounts {
        assert!(stage.is_current(id).await, "{id}");
        assert_eq!(text(&stage.world.account(id).await, "status"), "active");
    }
    assert_eq!(text(&stage.world.account(&accounts[2].0).await, "refreshToken"), again.refresh);
    assert_eq!(stage.pds.total_calls(), 3, "the daemon itself called nobody");
    let lines = daemon.log().matching(|line| {
        line["event"] == "ready" || line["event"] == "refresh" || line["event"] == "journal.found"
    });
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap_or("")).collect();
    assert_eq!(events, ["journal.found", "refresh", "refresh", "refresh", "ready"]);
    let outcomes: Vec<_> = lines.iter().filter_map(|line| line["outcome"].as_str()).collect();
    assert_eq!(outcomes.iter().filter(|it| **it == "refreshed").count(), 2, "{lines:?}");
    assert!(daemon.stop().await.success());
    let (_, listed, said) = list(&stage, &[]).await;
    assert_eq!(listed, "");
    assert!(said.starts_with("0 accounts pending in the journal"), "{said}");
}

#[tokio::test]
async fn a_call_of_a_former_life_is_asked_again_and_holds_nothing_up() {
    let stage = Stage::set().await;
    let (lost, hung) = (stage.log_in().await, stage.log_in().await);
    let journal = open(stage.state.path());
    for account in [&lost, &hung] {
        stage.leave(&journal, account, false).await;
    }
    journal.close().await;
    stage.pds.fail_next_of(&hung.1.did, 1, &Fault::Hang);

    // Listed while nobody has it.
    let (good, listed, _) = list(&stage, &["--json"]).await;
    let lines: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(good && lines.len() == 2, "{listed}");
    assert!(lines.iter().all(|line| line["state"] == "asked"), "{listed}");

    let daemon = Daemon::start(&stage.settings(&[("PDS_TIMEOUT", "8s")])).await;
    eventually("it is asked again", PATIENCE, async || stage.is_current(&lost.0).await).await;
    assert!(stage.pds.is_current(&hung.1.refresh), "the other one still waits for its server");
    // And while the daemon has it, without a lock.
    let (good, listed, said) = list(&stage, &[]).await;
    assert!(good && listed.contains(&hung.0) && listed.contains("asked"), "{listed}{said}");
    assert!(!listed.contains("eyJ"), "never a token: {listed}");
    let line = daemon.log().wait(|line| line["account"] == lost.0.as_str()).await;
    assert_eq!((&line["outcome"], &line["trigger"]), (&"refreshed".into(), &"recovery".into()));
    eventually("the other, too", PATIENCE, async || {
        !stage.pds.is_current(&hung.1.refresh) && stage.is_current(&hung.0).await
    })
    .await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_dead_instances_journal_is_adopted() {
    let stage = Stage::set().await;
    let (stored, asked) = (stage.log_in().await, stage.log_in().await);
    let dead = TempDir::new().expect("a folder");
    let journal = open(dead.path());
    stage.leave(&journal, &stored, true).await;
    stage.leave(&journal, &asked, false).await;
    let path = dead.path().display().to_string();
    let (good, _, said) = list(&stage, &["--adopt", &path]).await;
    assert!(!good && said.contains("is in use by another refreshd"), "{said}");

    journal.close().await;
    let (good, listed, said) = list(&stage, &["--adopt", &path]).await;
    assert!(good && said.contains("2 accounts settled"), "{said}");
    assert_eq!(listed.matches("refreshed").count(), 2, "{listed}");
    assert!(stage.is_current(&stored.0).await && stage.is_current(&asked.0).await);
    let (good, _, said) = list(&stage, &["--adopt", "/nowhere"]).await;
    assert!(!good && said.contains("/nowhere"), "{said}");
    let other = TempDir::new().expect("a folder");
    let path = other.path().display().to_string();
    let (good, _, said) = list(&stage, &["--adopt", &path]).await;
    assert!(!good && said.contains("there is no journal in"), "{said}");
    assert_eq!(std::fs::read_dir(other.path()).expect("a folder").count(), 0, "nor is one made");
}

#[tokio::test]
async fn a_start_waits_for_the_process_that_has_the_journal() {
    let stage = Stage::set().await;
    let first = stage.daemon().await;
    let mut refused = Daemon::spawn(&stage.settings(&[("STARTUP_TIMEOUT", "5s")]));
    assert_eq!(refused.ended().await.code(), Some(69), "{}", refused.log().text());
    let said = refused.log().matching(|line| line["level"] == "ERROR");
    let message = said[0]["message"].as_str().expect("a message");
    let pid = first.pid().to_string();
    assert!(message.contains("STATE_DIR") && message.contains(&pid), "{message}");

    let second = Daemon::spawn(&stage.settings(&[]));
    second.log().wait(|line| line["service"] == "the journal").await;
    assert!(first.stop().await.success());
    second.log().wait(|line| line["event"] == "ready").await;
    assert!(second.stop().await.success());
}

#[tokio::test]
async fn a_journal_that_is_not_understood_is_left_as_it_is() {
    let stage = Stage::set().await;
    let log = stage.state.path().join("log");
    for (content, word) in
        [("refreshd journal 99\nwhatever", "format 99"), ("my diary\n", "no journal")]
    {
        std::fs::write(&log, content).expect("a file");
        let mut daemon = Daemon::spawn(&stage.settings(&[]));
        assert_eq!(daemon.ended().await.code(), Some(78), "{}", daemon.log().text());
        assert!(daemon.log().text().contains(word), "{}", daemon.log().text());
        assert_eq!(std::fs::read_to_string(&log).expect("the file"), content);
        for command in ["journal", "check"] {
            let (good, listed, said) = run(&stage, &[command]).await;
            assert!(!good && (listed + &said).contains(word), "{command}: {said}");
        }
    }
}

#[tokio::test]
async fn a_damaged_record_is_named_and_the_others_are_settled() {
    let stage = Stage::set().await;
    let accounts = [stage.log_in().await, stage.log_in().await, stage.log_in().await];
    let journal = open(stage.state.path());
    for account in &accounts {
        stage.leave(&journal, account, true).await;
    }
    journal.close().await;
    let log = stage.state.path().join("log");
    let mut bytes = std::fs::read(&log).expect("the log");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("records");
    bytes[used / 2] ^= 1;
    std::fs::write(&log, &bytes).expect("the log");

    let (good, _, said) = list(&stage, &[]).await;
    assert!(!good && said.contains("the journal in"), "the damage is named: {said}");
    let daemon = stage.daemon().await;
    let named = daemon.log().matching(|line| line["event"] == "journal.damaged");
    assert_eq!(named.len(), 1, "{}", daemon.log().text());
    let mut current = 0;
    for (id, _) in &accounts {
        current += usize::from(stage.is_current(id).await);
    }
    assert_eq!(current, 2, "one was in the damaged piece");
    let kept = std::fs::read_dir(stage.state.path()).expect("the folder").flatten();
    let kept = kept.filter(|it| it.file_name().to_string_lossy().starts_with("log.damaged-"));
    assert_eq!(kept.count(), 1, "what cannot be read is kept for whoever can");
}

/// On a file system of its own, which is then filled to its last block.
#[tokio::test]
async fn on_a_full_disk_no_refresh_is_sent_until_there_is_room() {
    let stage = Stage::set().await;
    let script = stage.state.path().join("on-a-small-disk");
    let folder = stage.state.path().join("state");
    std::fs::create_dir(&folder).expect("a folder");
    let text = format!(
        "#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexec unshare -Urm sh -c 'mount -t tmpfs -o size=16m none \"$STATE_DIR\" && exec {} run'\n",
        crate::binary()
    );
    std::fs::write(&script, text).expect("a script");
    let runs = std::process::Command::new("chmod").arg("+x").arg(&script).status();
    assert!(runs.expect("chmod").success());
    let path = folder.display().to_string();
    let settings = stage.settings(&[("STATE_DIR", path.as_str()), ("WORKER_CONCURRENCY", "16")]);
    let daemon = Daemon::spawn_program(&script, &settings).until_ready().await;

    let filler = format!("/proc/{}/root{path}/filler", daemon.pid());
    let full = std::fs::File::create(&filler).and_then(|mut file| {
        let blank = vec![0_u8; 4_096];
        loop {
            std::io::Write::write_all(&mut file, &blank)?;
        }
    });
    assert_eq!(full.map_err(|it| it.kind()), Err::<(), _>(std::io::ErrorKind::StorageFull));
    // The room that is allocated already is used up first.
    fill_journal(&stage, &daemon).await;
    let unready = eventually_unready(&daemon).await;
    assert!(unready.contains("STATE_DIR"), "{unready}");
    let (id, session) = stage.log_in().await;
    let (_, answer) =
        daemon.post("/api/admin/refresh-tokens", &format!(r#"{{"accountId":"{id}"}}"#)).await;
    let job = answer["jobId"].as_str().expect("a job").to_owned();
    eventually("it runs", PATIENCE, async || {
        daemon.get(&format!("/api/admin/jobs/{job}")).await.1["state"] == "running"
    })
    .await;
    assert_eq!(stage.pds.calls(&session.did), 0, "nothing is sent");

    std::fs::remove_file(&filler).expect("room");
    assert_eq!(daemon.job(&job).await["outcome"], "refreshed");
    assert!(stage.is_current(&id).await);
    eventually("it is ready", PATIENCE, async || daemon.get("/readyz").await.0 == 200).await;
}

/// Refreshes accounts until the journal takes no more.
async fn fill_journal(stage: &Stage, daemon: &Daemon) {
    let sessions = stage.pds.create(6_000);
    let documents = sessions.iter().map(|it| login(&it.did, &it.handle, &it.access, &it.refresh));
    stage.world.accounts().insert_many(documents).await.expect("an insert");
    let (status, answer) = daemon.post("/api/admin/refresh-tokens", "{}").await;
    assert_eq!(status, 200, "{answer}");
}

async fn eventually_unready(daemon: &Daemon) -> String {
    arrival("the journal is missed", PATIENCE, async || {
        let (_, body) = daemon.get("/readyz").await;
        body["journal"].as_str().filter(|it| *it != "up").map(str::to_owned)
    })
    .await
}
