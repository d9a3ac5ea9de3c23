//! `refreshd journal`: what is pending, without tokens and without a lock; and settling what a dead
//! instance left behind.

use std::path::Path;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::stream;
use serde_json::json;

use super::args::JournalArgs;
use super::connect::connect;
use super::output::{counted, distance, line, note, table, tidy};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon;
use crate::domain::attempt::Report;
use crate::domain::outcome::Outcome;
use crate::domain::pending::Pending;
use crate::events::rfc3339;
use crate::journal::Journal;
use crate::lifecycle::Exit;
use crate::refresh::{NO_SLOT, Refresher};

/// Accounts that are settled at once.
const AT_ONCE: usize = 16;

/// Lists the journal of `STATE_DIR` on stdout, or settles another.
pub(super) async fn journal(config: &Config, args: &JournalArgs) -> anyhow::Result<Exit> {
    match &args.adopt {
        Some(dir) => adopt(config, dir).await,
        None => list(&config.state_dir, args.json),
    }
}

fn list(dir: &Path, as_json: bool) -> anyhow::Result<Exit> {
    let opened = Journal::read(dir)?;
    if as_json {
        opened.pending.iter().try_for_each(|pending| line(object(pending)))?;
    } else if !opened.pending.is_empty() {
        show(&opened.pending, Clock::system().now())?;
    }
    for damage in &opened.damage {
        note(format_args!("the journal in {}: {damage}", dir.display()));
    }
    if !as_json {
        let entries = u64::try_from(opened.pending.len()).unwrap_or(u64::MAX);
        let what = counted(entries, "account");
        note(format_args!("{what} pending in the journal in {}", dir.display()));
    }
    Ok(if opened.damage.is_empty() { Exit::Fine } else { Exit::Failed })
}

/// What is not known yet of a call.
fn state(pending: &Pending) -> &'static str {
    if pending.answer.is_some() { "answered" } else { "asked" }
}

fn object(pending: &Pending) -> serde_json::Value {
    let Pending { intent, .. } = pending;
    json!({
        "account": intent.account.to_string(),
        "did": intent.token.subject(),
        "service": intent.service.as_str(),
        "state": state(pending),
        "at": rfc3339(intent.at),
    })
}

fn show(pending: &[Pending], now: DateTime<Utc>) -> std::io::Result<()> {
    let mut table = table(["ACCOUNT", "DID", "SERVER", "STATE", "SINCE"]);
    for entry in pending {
        let Pending { intent, .. } = entry;
        table.add_row([
            intent.account.to_string(),
            intent.token.subject().to_owned(),
            intent.service.to_string(),
            state(entry).to_owned(),
            distance(Some(intent.at), now),
        ]);
    }
    line(tidy(&table))
}

/// Stores the answers first, then asks each call once again.
async fn adopt(config: &Config, dir: &Path) -> anyhow::Result<Exit> {
    let services = connect(config).await?;
    // Opening would make one.
    Journal::find(dir)?;
    let journal = daemon::start::open(dir).await?;
    let budget = daemon::budget(config, &services);
    let refresher = daemon::refresher(config, &services, &journal, (&budget, &Clock::system()))?;
    let found = journal.len();
    let mut left = found;
    // Their servers' budgets let some through at a time.
    while left > 0 {
        let (answers, calls): (Vec<_>, Vec<_>) =
            journal.all().into_iter().partition(|pending| pending.answer.is_some());
        for entries in [answers, calls] {
            settle(&refresher, entries).await?;
        }
        if std::mem::replace(&mut left, journal.len()) == left {
            break;
        }
    }
    journal.close().await;
    let [settled, left] = [found - left, left].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    note(format_args!("{} settled", counted(settled, "account")));
    if left == 0 {
        return Ok(Exit::Fine);
    }
    note(format_args!(
        "{} still pending, for the reasons above; run the same command again soon",
        counted(left, "account")
    ));
    Ok(Exit::Failed)
}

async fn settle(refresher: &Refresher, entries: Vec<Pending>) -> anyhow::Result<()> {
    let mut reports = stream::iter(entries)
        .map(|pending| async move {
            let intent = &pending.intent;
            refresher.refresh(intent.account, Some(intent.token.jti()), NO_SLOT).await
        })
        .buffer_unordered(AT_ONCE);
    while let Some(Report { account, handle, outcome, error, .. }) = reports.next().await {
        // Its turn comes.
        if outcome == Outcome::RateLimited {
            continue;
        }
        let handle = handle.unwrap_or_default();
        let why = error.map(|error| format!(": {error}")).unwrap_or_default();
        line(format_args!("{account}  {handle}  {outcome}{why}"))?;
    }
    Ok(())
}
