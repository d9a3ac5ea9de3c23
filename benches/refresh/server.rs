//! The scripted server's process, as the conductor sees it.

use std::process::Stdio;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::fleet::{Due, Fill};
use crate::pds::Order;

/// It ends with this, which closes its standard input.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    url: String,
}

impl Server {
    /// Starts it; its tokens live and its calls take so long.
    pub(crate) async fn start(access_life: u64, latency: u64) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["pds", "--access-life", &access_life.to_string()])
            .args(["--takes", &latency.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).context("its pipes")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next_line().await?.context("the scripted server does not start")?;
        let first: Value = serde_json::from_str(&first)?;
        let url = first.get("url").and_then(Value::as_str).context("its address")?.to_owned();
        Ok(Self { child, pipes: Mutex::new((stdin, lines)), url })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the scripted server has ended")
    }

    /// Calls that have arrived so far.
    pub(crate) async fn calls(&self) -> anyhow::Result<u64> {
        let answer = self.order(&Order::Calls).await?;
        answer.get("calls").and_then(Value::as_u64).context("a count")
    }

    /// Creates accounts and stores them; answers the DID of the last.
    pub(crate) async fn fill(&self, mongo: &str, count: u32, due: Due) -> anyhow::Result<String> {
        let fill = Fill { mongo: mongo.to_owned(), count, due };
        let answer = self.order(&Order::Fill(fill)).await?;
        Ok(answer.get("last").and_then(Value::as_str).context("a DID")?.to_owned())
    }

    /// Every one of so many accounts holds the token that is the end of its chain.
    pub(crate) async fn verify(&self, mongo: &str, accounts: u64) -> anyhow::Result<()> {
        let answer = self.order(&Order::Verify { mongo: mongo.to_owned() }).await?;
        let count = |name| answer.get(name).and_then(Value::as_u64);
        anyhow::ensure!(
            (count("accounts"), count("current")) == (Some(accounts), Some(accounts)),
            "not every account holds the newest token that the server gave out: {answer}"
        );
        Ok(())
    }

    /// When the last call of an account arrived, in microseconds since 1970.
    pub(crate) async fn called_at(&self, did: &str) -> anyhow::Result<Option<i64>> {
        let answer = self.order(&Order::CalledAt { did: did.to_owned() }).await?;
        Ok(answer.get("at").and_then(Value::as_i64))
    }

    async fn order(&self, order: &Order) -> anyhow::Result<Value> {
        let mut pipes = self.pipes.lock().await;
        let (stdin, lines) = &mut *pipes;
        stdin.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes()).await?;
        let answer = lines.next_line().await?.context("the scripted server has ended")?;
        Ok(serde_json::from_str(&answer)?)
    }
}
