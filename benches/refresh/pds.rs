//! The scripted server as a process of its own, told over its standard input what to do besides.

use std::io::{BufRead as _, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::sync::mpsc;

use crate::fleet::{self, Fill};
use crate::harness::scripted_pds::{Options, ScriptedPds};
use crate::options::PdsArgs;

/// One line of JSON each; each is answered with one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Order {
    /// How many calls have arrived.
    Calls,
    /// Create accounts and store them.
    Fill(Fill),
    /// How many stored accounts hold the token that is the end of their chain.
    Verify { mongo: String },
    /// When the last call of an account arrived, in microseconds since 1970.
    CalledAt { did: String },
}

/// Serves until its standard input ends.
///
/// One thread serves, with as little in its way as there can be; another takes the orders.
pub(crate) fn serve(given: &PdsArgs) -> anyhow::Result<()> {
    let (orders, mut todo) = mpsc::channel(1);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if orders.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let options = Options {
        access_life: Duration::from_secs(given.access_life),
        // Spent tokens are forgotten, so that chains of many rounds do not grow.
        grace: Duration::ZERO,
        ..Options::default()
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pds = ScriptedPds::start(options).await;
        pds.set_latency(Duration::from_millis(given.latency));
        say(&json!({ "url": pds.url().as_str() }))?;
        while let Some(line) = todo.recv().await {
            let order = serde_json::from_str(&line).context("an order")?;
            say(&obey(&pds, order).await?)?;
        }
        Ok(())
    })
}

async fn obey(pds: &ScriptedPds, order: Order) -> anyhow::Result<Value> {
    Ok(match order {
        Order::Calls => json!({ "calls": pds.total_calls() }),
        Order::Fill(fill) => json!({ "last": fleet::fill(pds, &fill).await? }),
        Order::Verify { mongo } => fleet::verify(pds, &mongo).await?,
        Order::CalledAt { did } => {
            json!({ "at": pds.called_at(&did).map(|at| at.timestamp_micros()) })
        }
    })
}

fn say(answer: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}
