//! The demo: refreshd with everything it works with, on this machine, and nothing left behind.
//!
//! `scripts/demo` builds and starts it. It starts Redis, MongoDB and the reference PDS on free
//! ports, creates accounts, stores their sessions as the application would, and runs the daemon:
//! in the foreground until Ctrl-C, or (`--once`) through one refresh-all, whose result it proves. A
//! post that was scheduled with the tokens of before is sent after that.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "showing is what it is for, and what is missing of an answer is null"
)]

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use comfy_table::{Table, presets};
use mongodb::bson::Document;
use serde_json::{Value, json};

#[path = "../tests/it/harness/mod.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests use the rest, and it is a harness: what is wrong ends it at once"
)]
mod harness;

use harness::app::App;
use harness::daemon::{ADMIN_TOKEN, Daemon};
use harness::reference_pds::{PdsAccount, ReferencePds};
use harness::world::{World, text};

const ACCOUNTS: usize = 25;

/// Whose post is scheduled. The access token that it carries has ended by then, as after some days.
const WRITER: usize = 7;

/// When the post is due: while somebody watches the daemon, and when it is to be over soon.
const DUE: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(1)];

/// Where the daemon's program is: `scripts/demo` built it.
fn binary() -> String {
    harness::part("REFRESHD_BIN")
}

#[tokio::main]
async fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--once" => true,
        _ => {
            eprintln!("usage: scripts/demo [--once]");
            return ExitCode::from(64);
        }
    };
    let shown = async { if once { prove().await } else { show().await } };
    tokio::select! {
        code = shown => code,
        _pressed = tokio::signal::ctrl_c(), if once => {
            println!("\nstopped; nothing is left behind");
            ExitCode::from(130)
        }
    }
}

struct Stage {
    world: World,
    pds: ReferencePds,
    /// The posting application.
    app: App,
    writer: PdsAccount,
    /// Account ids with what is to become of them.
    cast: Vec<(String, &'static str)>,
}

async fn set(due: Duration) -> Stage {
    println!(
        "demo: starting Redis, MongoDB (a replica set of one) and the reference Bluesky PDS …"
    );
    let (world, pds) = tokio::join!(World::start(), ReferencePds::start());
    println!("demo: creating {ACCOUNTS} accounts at the PDS …");
    let accounts = pds.create_many("demo", ACCOUNTS).await;
    let app = App::start(&world, &pds.url, &[]).await;
    let writer = accounts[WRITER].clone();
    let mut stage = Stage { world, pds, app, writer, cast: Vec::new() };
    for (number, account) in accounts.iter().enumerate() {
        stage.join(number, account).await;
    }
    let malformed = stage.world.log_in("did:nonsense", "broken.test", "", "not a token").await;
    stage.cast.push((malformed, "malformed"));
    println!("demo: scheduling a post with BullMQ; its job carries a copy of the tokens of now …");
    let post =
        json!({"do": "schedule", "accountId": stage.cast[WRITER].0, "delayMs": due.as_millis()});
    stage.app.ask(post).await;
    stage
}

impl Stage {
    /// Stores an account's session; a few of them get into a situation first.
    async fn join(&mut self, number: usize, account: &PdsAccount) {
        let access = match number {
            0..5 => self.ending(account, 60).await,
            WRITER => self.ending(account, -60).await,
            _ => account.access.clone(),
        };
        let id = self.world.log_in(&account.did, &account.handle, &access, &account.refresh).await;
        let fate = match number {
            5 => {
                self.pds.control("/delete-session", json!({"refreshJwt": account.refresh})).await;
                "revoked"
            }
            6 => {
                self.pds.control("/takedown", json!({"did": account.did})).await;
                "taken_down"
            }
            _ => "refreshed",
        };
        self.cast.push((id, fate));
    }

    /// The account's access token, as it would be had it so many seconds left.
    async fn ending(&self, account: &PdsAccount, seconds: i64) -> String {
        let ending = json!({"accessJwt": account.access, "seconds": seconds});
        let answer = self.pds.control("/access-expiring", ending).await;
        answer["accessJwt"].as_str().unwrap_or_default().to_owned()
    }

    /// Has the application work on its queue, and tells what came of the post.
    async fn post(&self) -> Value {
        self.app.ask(json!({"do": "work"})).await;
        self.app.log().wait(|line| line["event"] == "post").await
    }

    /// Has the post sent, now that the tokens that it was scheduled with are worth nothing; whether
    /// that went as it should.
    async fn is_posted(&self, daemon: &Daemon) -> bool {
        let id = self.cast[WRITER].0.as_str();
        daemon.log().wait(|line| line["event"] == "posts" && line["account"] == id).await;
        self.pds.control("/end-grace", json!({"did": self.writer.did})).await;
        let (status, refusal) = self.pds.refresh(&self.writer.refresh).await;
        println!(
            "\ndemo: the post of {} was scheduled with tokens that are refused by now ({status}: {}) …",
            self.writer.handle,
            refusal["message"].as_str().unwrap_or_default()
        );
        let post = self.post().await;
        println!("demo: {}", told(&post));
        status == 400 && post["ok"] == true && !post["calls"].to_string().contains("refreshSession")
    }
}

/// A post's first attempt, in words.
fn told(post: &Value) -> String {
    let calls = post["calls"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let calls = calls.collect::<Vec<_>>().join(", ");
    match post["error"].as_str() {
        None => format!("it was sent with those that refreshd had put into its job ({calls})"),
        Some(error) => format!("it was NOT sent ({calls}): {error}"),
    }
}

/// Runs the daemon in the foreground until Ctrl-C.
async fn show() -> ExitCode {
    let stage = set(DUE[0]).await;
    let mut settings = stage.world.settings(&stage.pds.url);
    let admin = free_address();
    settings.push(("ADMIN_LISTEN".to_owned(), admin.clone()));
    settings.push(("ADMIN_TOKEN".to_owned(), ADMIN_TOKEN.to_owned()));
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("demo: no temporary folder can be made: {error}");
            return ExitCode::FAILURE;
        }
    };
    let file = folder.path().join("refreshd.env");
    let exports: Vec<String> =
        settings.iter().map(|(name, value)| format!("export {name}='{value}'")).collect();
    if let Err(error) = std::fs::write(&file, exports.join("\n")) {
        eprintln!("demo: {} cannot be written: {error}", file.display());
        return ExitCode::FAILURE;
    }
    println!(
        "\nrefreshd runs below, until you press Ctrl-C. In another terminal, try:\n\n  \
         . {env}\n  {bin} status\n  {bin} accounts\n  {bin} refresh --all --wait\n  \
         curl -s -X POST http://{admin}/api/admin/refresh-tokens \\\n       \
         -H \"Authorization: Bearer $ADMIN_TOKEN\" -H 'Content-Type: application/json' -d '{{}}'\n  \
         curl -s http://{admin}/readyz\n",
        env = file.display(),
        bin = binary(),
    );
    let daemon = tokio::process::Command::new(binary())
        .arg("run")
        .env_clear()
        .envs(settings)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .status();
    // Ctrl-C reaches the daemon, too: it drains and ends by itself, then the rest goes.
    let ignore = async {
        loop {
            let _pressed = tokio::signal::ctrl_c().await;
        }
    };
    let posted = async {
        let post = stage.post().await;
        println!(
            "\ndemo: a post was due that had been scheduled with old tokens: {}\n",
            told(&post)
        );
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = posted => ExitCode::FAILURE,
        status = daemon => match status {
            Ok(status) if status.success() => {
                println!("\nrefreshd drained and stopped; nothing is left behind");
                ExitCode::SUCCESS
            }
            Ok(status) => {
                eprintln!("\nrefreshd ended with {status}");
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("{} cannot be started: {error}", binary());
                ExitCode::FAILURE
            }
        },
        () = ignore => ExitCode::FAILURE,
    }
}

/// One refresh-all through the admin API, and the proof that it did what it should.
async fn prove() -> ExitCode {
    let stage = set(DUE[1]).await;
    println!("demo: starting refreshd and asking it for a refresh-all …");
    let daemon = Daemon::start(&stage.world.settings(&stage.pds.url)).await;
    let run = daemon.refresh_all().await;
    println!(
        "demo: {} is done; asking the PDS whether the stored access tokens work …\n",
        run["id"].as_str().unwrap_or_default()
    );

    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["account", "status", "outcome", "as planned", "stored access token"]);
    let mut wrong = 0;
    for (id, fate) in &stage.cast {
        let document = stage.world.account(id).await;
        let outcome = outcome(&daemon, &document, id);
        let token = token_state(&stage.pds, &document, fate).await;
        let good = outcome == *fate && token != "REFUSED";
        wrong += usize::from(!good);
        let planned = if good { "yes".to_owned() } else { format!("NO: expected {fate}") };
        table.add_row([
            text(&document, "platformUsername"),
            text(&document, "status"),
            &outcome,
            &planned,
            token,
        ]);
    }
    println!("{table}");
    print_totals(&run);
    if wrong > 0 {
        eprintln!(
            "\ndemo: {wrong} accounts are not as they should be; the daemon's log:\n{}",
            daemon.log().text()
        );
        return ExitCode::FAILURE;
    }
    if !stage.is_posted(&daemon).await {
        eprintln!(
            "\ndemo: that is not as it should be; the daemon's log:\n{}",
            daemon.log().text()
        );
        return ExitCode::FAILURE;
    }
    let stopped = daemon.stop().await;
    if !stopped.success() {
        eprintln!("demo: refreshd did not stop cleanly: {stopped}");
        return ExitCode::FAILURE;
    }
    println!(
        "\ndemo: every good account's stored access token works, and so does the post that waited; \
         nothing is left behind"
    );
    ExitCode::SUCCESS
}

/// The outcome in the document; an account that cannot be attempted has it in the log alone.
fn outcome(daemon: &Daemon, document: &Document, id: &str) -> String {
    let stored = text(document, "tokenRefresh.outcome");
    if !stored.is_empty() {
        return stored.to_owned();
    }
    let lines = daemon.log().matching(|line| line["event"] == "refresh" && line["account"] == id);
    lines.last().and_then(|line| line["outcome"].as_str()).unwrap_or("none").to_owned()
}

async fn token_state(pds: &ReferencePds, document: &Document, fate: &str) -> &'static str {
    match (fate, pds.accepts(text(document, "accessToken")).await) {
        ("refreshed", true) => "works",
        ("refreshed", false) => "REFUSED",
        _ => "-",
    }
}

fn print_totals(run: &Value) {
    let totals = run["outcomes"].as_object().into_iter().flatten();
    let totals: Vec<String> = totals.map(|(outcome, count)| format!("{outcome} {count}")).collect();
    println!("totals of {}: {}", run["id"].as_str().unwrap_or_default(), totals.join(", "));
}

fn free_address() -> String {
    let bound =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map_or_else(|_none| "127.0.0.1:4040".to_owned(), |address| address.to_string())
}
