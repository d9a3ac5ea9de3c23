//! `refreshd accounts`: the accounts and how they are, page by page.

use chrono::{DateTime, Utc};
use comfy_table::{ColumnConstraint, Width};
use serde_json::{Value, json};

use super::args::AccountsArgs;
use super::connect::connect;
use super::output::{counted, distance, line, note, table};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::Services;
use crate::domain::outcome::Outcome;
use crate::events::rfc3339;
use crate::lifecycle::Exit;
use crate::store::{AccountFilter, AccountRow};

/// Accounts read, and aligned, at once.
const PAGE: u32 = 500;

const COLUMNS: [&str; 7] =
    ["ID", "HANDLE", "STATUS", "TOKEN EXPIRES", "REFRESHED", "LAST OUTCOME", "NEXT ATTEMPT"];

/// The least width of each column, so that the pages stand under each other.
const WIDTHS: [u16; 7] = [25, 30, 9, 14, 14, 18, 12];

/// Lists accounts on stdout.
pub(super) async fn accounts(config: &Config, args: &AccountsArgs) -> anyhow::Result<Exit> {
    let services = connect(config).await?;
    let now = Clock::system().now();
    let filter = AccountFilter { status: args.status.clone() };
    let (mut last, mut listed) = (None, 0);
    loop {
        let page = services.store.list(&filter, last, PAGE).await?;
        if args.json {
            page.iter().try_for_each(|row| line(object(row)))?;
        } else if !page.is_empty() {
            show(&page, listed == 0, now)?;
        }
        listed += u64::try_from(page.len()).unwrap_or(u64::MAX);
        last = page.last().map(|row| row.id);
        if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            break;
        }
    }
    if !args.json {
        summarise(&services, args, listed).await?;
    }
    Ok(Exit::Fine)
}

fn show(page: &[AccountRow], with_header: bool, now: DateTime<Utc>) -> std::io::Result<()> {
    let mut table = table(COLUMNS);
    for (column, width) in table.column_iter_mut().zip(WIDTHS) {
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
    }
    for row in page {
        table.add_row([
            row.id.to_string(),
            row.handle.clone().or_else(|| row.did.clone()).unwrap_or_else(dash),
            row.status.clone().unwrap_or_else(dash),
            distance(row.token_expiry, now),
            distance(row.refreshed_at, now),
            row.outcome.map_or_else(dash, |outcome| outcome.to_string()),
            distance(row.next_attempt_at, now),
        ]);
    }
    let skipped = usize::from(!with_header);
    table.lines().skip(skipped).try_for_each(|text| line(text.trim_end()))
}

fn dash() -> String {
    "-".to_owned()
}

fn object(row: &AccountRow) -> Value {
    json!({
        "id": row.id.to_string(),
        "did": row.did,
        "handle": row.handle,
        "status": row.status,
        "service": row.service,
        "tokenExpiry": row.token_expiry.map(rfc3339),
        "refreshedAt": row.refreshed_at.map(rfc3339),
        "outcome": row.outcome.map(Outcome::as_str),
        "failures": row.failures,
        "nextAttemptAt": row.next_attempt_at.map(rfc3339),
        "lastError": row.last_error,
    })
}

/// Nothing found is an answer, too: it says where was looked, and what there is instead.
async fn summarise(services: &Services, args: &AccountsArgs, listed: u64) -> anyhow::Result<()> {
    if listed > 0 {
        note(counted(listed, "account"));
        return Ok(());
    }
    let place = format!("{}.{}", services.store.database(), services.store.collection());
    let counts = services.store.count_by_status().await?;
    match &args.status {
        Some(status) if !counts.is_empty() => {
            let there: Vec<_> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
            note(format_args!(
                "no Bluesky account in {place} has the status {status:?}; there are: {}",
                there.join(", ")
            ));
        }
        _ => note(format_args!("there are no Bluesky accounts in {place}")),
    }
    Ok(())
}
