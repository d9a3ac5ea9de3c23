//! What is counted in a round of its own: system calls, and the commands that Redis is sent.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::bed::Bed;
use crate::harness::signal;

/// How long a tracer takes at most to begin, and to say what it has counted.
const PATIENCE: Duration = Duration::from_secs(30);

/// Per refresh.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Counted {
    pub(crate) syscalls: Option<f64>,
    /// What has counted them, or why nothing could.
    pub(crate) syscalls_by: String,
    /// Commands that clients have sent, without those that scripts run.
    pub(crate) redis_calls: f64,
}

/// Counts while it stands.
#[derive(Debug)]
pub(crate) struct Counter {
    tracer: Result<Tracer, String>,
    monitor: JoinHandle<u64>,
    redis: u16,
}

impl Counter {
    /// Begins to count what this process does.
    pub(crate) async fn start(bed: &Bed, pid: u32) -> anyhow::Result<Self> {
        let redis = bed.world.redis.port();
        let monitor = monitor(redis).await?;
        Ok(Self { tracer: Tracer::start(bed, pid).await, monitor, redis })
    }

    /// What so many refreshes took.
    pub(crate) async fn end(self, refreshes: u64) -> anyhow::Result<Counted> {
        // Its own word in the stream: all that was sent before is counted by then.
        let mut last = TcpStream::connect(("127.0.0.1", self.redis)).await?;
        last.write_all(format!("ECHO {LAST_WORD}\r\n").as_bytes()).await?;
        let sent = timeout(PATIENCE, self.monitor).await.context("Redis does not tell")??;
        let counted = match self.tracer {
            Ok(tracer) => tracer.end().await,
            Err(why) => Err(why),
        };
        let each = |count: u64| count as f64 / refreshes as f64;
        Ok(match counted {
            Ok((syscalls, by)) => Counted {
                syscalls: Some(each(syscalls)),
                syscalls_by: by.to_owned(),
                redis_calls: each(sent),
            },
            Err(why) => Counted { syscalls: None, syscalls_by: why, redis_calls: each(sent) },
        })
    }
}

const LAST_WORD: &str = "that-was-all";

/// Counts commands of clients, which `MONITOR` tells from those of scripts, until the last word.
async fn monitor(port: u16) -> anyhow::Result<JoinHandle<u64>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"MONITOR\r\n").await?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    anyhow::ensure!(line.starts_with("+OK"), "Redis does not let itself be watched: {line}");
    #[expect(clippy::disallowed_methods, reason = "the conductor has no task tracker")]
    Ok(tokio::spawn(async move {
        let (mut count, mut line) = (0, Vec::new());
        loop {
            line.clear();
            // Arguments may be anything, but never a line's end.
            if reader.read_until(b'\n', &mut line).await.is_ok_and(|length| length == 0) {
                return count;
            }
            let text = String::from_utf8_lossy(&line);
            if text.contains(LAST_WORD) {
                return count;
            }
            let whose = text.split(']').next().unwrap_or_default();
            count += u64::from(!whose.ends_with(" lua"));
        }
    }))
}

/// `perf` or, where it may not look, `strace`, which slows what it looks at.
#[derive(Debug)]
struct Tracer {
    child: Child,
    out: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Perf,
    Strace,
}

impl Tracer {
    async fn start(bed: &Bed, pid: u32) -> Result<Self, String> {
        match Self::attach(Kind::Perf, bed, pid).await {
            Ok(tracer) => Ok(tracer),
            Err(perf) => Self::attach(Kind::Strace, bed, pid)
                .await
                .map_err(|strace| format!("not measured (perf: {perf}; strace: {strace})")),
        }
    }

    async fn attach(kind: Kind, bed: &Bed, pid: u32) -> Result<Self, String> {
        let out = bed.path("syscalls");
        drop(std::fs::remove_file(&out));
        let pid = pid.to_string();
        let mut command = match kind {
            Kind::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pid, "-o"]);
                command
            }
            Kind::Strace => {
                let mut command = Command::new("strace");
                command.args(["-c", "-f", "-p", &pid, "-o"]);
                command
            }
        };
        command.arg(&out).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| error.to_string())?;
        // Neither says when it has begun; one that may not look ends at once.
        match timeout(Duration::from_millis(800), child.wait()).await {
            Err(_at_work) => Ok(Self { child, out, kind }),
            Ok(_ended) => Err(first_words(child).await),
        }
    }

    /// How many there were, and who has counted.
    async fn end(mut self) -> Result<(u64, &'static str), String> {
        let pid = self.child.id().ok_or("the tracer has ended")?;
        signal(pid, "INT");
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended
            .map_err(|_late| "the tracer does not end".to_owned())?
            .map_err(|it| it.to_string())?;
        // The process that was looked at runs on, and is given a moment to be alone again.
        sleep(Duration::from_millis(50)).await;
        let text = std::fs::read_to_string(&self.out).map_err(|error| error.to_string())?;
        let counted = match self.kind {
            Kind::Perf => text.lines().find_map(|line| line.split(',').next()?.parse().ok()),
            Kind::Strace => text.lines().rev().find_map(|line| {
                let total = line.trim_end().strip_suffix("total")?;
                total.split_whitespace().nth(3)?.parse().ok()
            }),
        };
        let by = match self.kind {
            Kind::Perf => "perf",
            Kind::Strace => "strace, which slows the program",
        };
        Ok((counted.ok_or_else(|| format!("{by} has counted nothing"))?, by))
    }
}

/// What a process that has ended complained of first.
async fn first_words(mut child: Child) -> String {
    let Some(stderr) = child.stderr.take() else { return String::new() };
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.trim().is_empty() {
            return line.trim().to_owned();
        }
    }
    String::new()
}
