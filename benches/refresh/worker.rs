//! Floor and peer, as the conductor sees them: they say `ready`, are told `go`, say `done`.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::bed::Bed;
use crate::harness::part;

/// A process that ends with its standard input.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// The bare loop: this program in another role.
    pub(crate) async fn floor(bed: &Bed, concurrency: u32) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["floor", "--mongo", &bed.world.mongo.uri(), "--pds", bed.server.url()])
            .args(["--in-flight", &concurrency.to_string()]);
        Self::start(command).await.context("the floor")
    }

    /// The Node worker.
    pub(crate) async fn peer(bed: &Bed, concurrency: u32) -> anyhow::Result<Self> {
        let mut command = Command::new(part("REFRESHD_NODE"));
        command
            .arg(part("REFRESHD_PEER"))
            .args(["--mongo", &bed.world.mongo.uri(), "--pds", bed.server.url()])
            .args(["--redis", &bed.world.redis.port().to_string()])
            .args(["--concurrency", &concurrency.to_string()])
            .arg("--log")
            .arg(bed.path("peer.log"))
            .env("NODE_ENV", "production");
        Self::start(command).await.context("the peer")
    }

    async fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).context("its pipes")?;
        let mut worker = Self { child, stdin, lines: BufReader::new(stdout).lines() };
        let said = worker.next_line().await?;
        anyhow::ensure!(said == "ready", "it is not ready but says {said}");
        Ok(worker)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Refreshes every account once; all of them are stored.
    pub(crate) async fn pass(&mut self, accounts: u64) -> anyhow::Result<()> {
        self.stdin.write_all(b"go\n").await?;
        let said = self.next_line().await?;
        anyhow::ensure!(said == format!("done {accounts} 0"), "{accounts} accounts, but {said}");
        Ok(())
    }

    /// Stops it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.stdin);
        self.child.wait().await?;
        Ok(())
    }

    async fn next_line(&mut self) -> anyhow::Result<String> {
        self.lines.next_line().await?.context("it has ended")
    }
}
