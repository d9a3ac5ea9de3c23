//! `refreshd adopt` and what `refreshd check` says before and after.

use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::*;

/// A folder with settings in it, and commands that are run there.
struct Desk {
    folder: TempDir,
    settings: Vec<(String, String)>,
}

impl Desk {
    fn of(stage: &Stage) -> Self {
        let settings = stage.world.settings(stage.pds.url().as_str());
        Self { folder: TempDir::new().expect("a folder"), settings }
    }

    /// Runs a command with a person's answer, and tells its status and all that it said.
    async fn run(&self, words: &[&str], answer: &str) -> (i32, String) {
        let mut child = Command::new(crate::binary())
            .args(words)
            .env_clear()
            .envs(self.settings.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // It may have ended before it asks.
        drop(stdin.write_all(answer.as_bytes()).await);
        drop(stdin);
        let ended = tokio::time::timeout(PATIENCE, child.wait_with_output());
        let Output { status, stdout, stderr } = ended.await.expect("an end").expect("a status");
        let said = [stdout, stderr].concat();
        (status.code().expect("a status"), String::from_utf8(said).expect("text"))
    }

    fn write_env(&self, text: &str) {
        std::fs::write(self.folder.path().join(".env"), text).expect("a file");
    }

    fn env(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(".env")).expect("a file")
    }
}

/// A queue with three schedules of the old system's.
async fn with_schedules(stage: &Stage) {
    let app = stage.app("5").await;
    for _ in 0..3 {
        app.ask(json!({"do": "schedule-refresh"})).await;
    }
}

async fn schedules(stage: &Stage, queue: &str) -> (u64, u64) {
    let set = stage.ask(&["ZCARD", &format!("bull:{queue}:repeat")]).await;
    (set, stage.ask(&["ZCARD", &format!("bull:{queue}:delayed")]).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_changes_without_a_yes_and_with_one_the_queue_is_served() {
    let stage = Stage::set().await;
    with_schedules(&stage).await;
    let desk = Desk::of(&stage);
    desk.write_env("# ours\nREFRESH_LIMIT=0\n");
    let (_, said) = desk.run(&["check"], "").await;
    assert!(said.contains("token-refreshes holds 3 jobs, and is not served from here"), "{said}");
    assert!(said.contains("3 repeatable schedules of refresh-all-tokens ("), "{said}");

    for answer in ["", "no\n", "maybe\n"] {
        let (status, said) = desk.run(&["adopt"], answer).await;
        assert_eq!(status, 1, "{said}");
        for part in [
            "token-refreshes: 0 waiting, 0 active, 3 delayed, 0 failed",
            "nobody else serves it now",
            "3 repeatable schedules of refresh-all-tokens",
            "0 0 * * 0",
            "no accounts of other platforms",
            "- remove 3 schedules",
            "- set BULLMQ_REFRESH_QUEUE=token-refreshes",
            "nothing was changed",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(schedules(&stage, QUEUE).await, (3, 3));
        assert_eq!(desk.env(), "# ours\nREFRESH_LIMIT=0\n");
    }

    let (status, said) = desk.run(&["adopt"], "yes\n").await;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("removed 3 schedules") && said.contains("wrote .env"), "{said}");
    assert_eq!(desk.env(), "# ours\nREFRESH_LIMIT=0\nBULLMQ_REFRESH_QUEUE=token-refreshes\n");
    assert_eq!(schedules(&stage, QUEUE).await, (0, 0));
    let left: Vec<String> = stage.ask(&["KEYS", &format!("bull:{QUEUE}:repeat*")]).await;
    assert!(left.is_empty(), "{left:?}");

    let (_, said) = desk.run(&["check"], "").await;
    assert!(said.contains("token-refreshes is served, and holds 0 jobs"), "{said}");
    assert!(!said.contains("schedules"), "{said}");
    let (status, said) = desk.run(&["adopt"], "").await;
    assert!(status == 0 && said.contains("nothing to do"), "{said}");
    // The application starts again.
    with_schedules(&stage).await;
    let (_, said) = desk.run(&["check"], "").await;
    assert!(said.contains("one more with each start of the application"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_platforms_keep_a_schedule_and_get_their_jobs() {
    let stage = Stage::set().await;
    stage.foreign("tiktok").await;
    let app = stage.app("5").await;
    for pattern in ["0 0 * * 0", "0 0 * * 0", "*/2 * * * * *"] {
        app.ask(json!({"do": "schedule-refresh", "pattern": pattern})).await;
    }
    // One that has come to its end stands there for ever, and is due before all others.
    let ended = "refresh-all-tokens:ended:::0 0 * * 0";
    let repeat = format!("bull:{QUEUE}:repeat");
    let _added: u64 = stage.ask(&["ZADD", &repeat, "1000", ended]).await;
    let desk = Desk::of(&stage);
    let (_, said) = desk.run(&["adopt"], "no\n").await;
    assert!(said.contains("accounts of other platforms: tiktok 1"), "{said}");
    assert!(said.contains("FAIL with unsupported_platform: name their worker's queue"), "{said}");

    // Without a file to write to, the settings are shown.
    let (status, said) = desk.run(&["adopt", "--other", OTHER, "--yes"], "").await;
    assert_eq!(status, 0, "{said}");
    for part in [
        "removed 3 schedules",
        "- move one schedule to other-refreshes",
        "\nBULLMQ_REFRESH_QUEUE=token-refreshes\nBULLMQ_OTHER_QUEUE=other-refreshes\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!((schedules(&stage, QUEUE).await, schedules(&stage, OTHER).await), ((0, 0), (1, 1)));
    // After the application's next start they have one already.
    app.ask(json!({"do": "schedule-refresh", "pattern": "0 1 * * 0"})).await;
    let (status, said) = desk.run(&["adopt", "--other", OTHER, "--yes"], "").await;
    assert!(status == 0 && said.contains("removed 1 schedule\n"), "{said}");
    assert_eq!((schedules(&stage, QUEUE).await, schedules(&stage, OTHER).await), ((0, 0), (1, 1)));
    // Their worker keeps it going.
    app.ask(json!({"do": "serve", "queue": OTHER})).await;
    eventually("it comes again and again", PATIENCE, async || {
        let served = app.log().matching(|line| line["event"] == "served");
        served.iter().all(|line| line["data"] == json!({"scheduled": true})) && served.len() >= 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_somebody_serves_is_not_taken_from_them() {
    let stage = Stage::set().await;
    let desk = Desk::of(&stage);
    let (status, said) = desk.run(&["adopt", "--yes"], "").await;
    assert!(
        status == 1 && said.contains("BullMQ has never used the queue token-refreshes"),
        "{said}"
    );
    let app = stage.app("newest").await;
    app.ask(json!({"do": "serve", "queue": QUEUE})).await;
    let (status, said) = desk.run(&["adopt", "--yes"], "").await;
    assert!(status == 1 && said.contains("nothing was changed: other workers serve"), "{said}");
    for (words, status, says) in [
        (&["--queue", "posts"][..], 1, "posts is one of BULLMQ_POST_QUEUES"),
        (&["--other", QUEUE], 1, "must name another queue"),
        (&["--queue", "a:b"], 64, "not the name of a queue"),
    ] {
        let (ended, said) = desk.run(&[&["adopt"], words].concat(), "").await;
        assert!(ended == status && said.contains(says), "{words:?}: {ended} {said}");
    }
    // Our own daemons are not somebody else.
    let mut settings = desk.settings.clone();
    settings.extend([(SERVED.0.to_owned(), SERVED.1.to_owned())]);
    drop(app);
    let daemon = Daemon::start(&settings).await;
    daemon.log().wait(|line| line["event"] == "ready").await;
    let desk = Desk { settings, ..desk };
    eventually("the application is gone", PATIENCE, async || {
        let (status, said) = desk.run(&["adopt"], "").await;
        status == 0 && said.contains("nothing to do")
    })
    .await;
}
