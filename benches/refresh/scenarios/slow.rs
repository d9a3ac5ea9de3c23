//! A server that takes its time: throughput is a matter of calls in flight.

use serde_json::json;

use crate::bed::{Bed, USUAL_LIFE, grouped};
use crate::figures::{SHOWN, Summary};
use crate::fleet::Due;
use crate::options::{Options, Who};
use crate::program::Program;
use crate::progress::Progress;
use crate::report::{Bound, Report};

const ACCOUNTS: u32 = 60_000;
const LATENCY: u64 = 100;
const CONCURRENCY: u32 = 512;

/// Measures, prints and writes.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let progress = Progress::new();
    let accounts = options.accounts.unwrap_or(ACCOUNTS);
    let latency = options.latency.unwrap_or(LATENCY);
    let concurrency = options.concurrency.unwrap_or(CONCURRENCY);
    let bed = Bed::start(&options.out, (USUAL_LIFE, latency), &progress).await?;
    bed.fill(accounts, Due::Never, &progress).await?;
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        let title = format!("round {round} of {}", options.rounds);
        let daemon = Program::start(Who::Daemon, &bed, concurrency).await?;
        rounds.push(daemon.measure(&bed, u64::from(accounts), (&progress, &title)).await?);
    }
    progress.end();
    let summary = Summary::of(rounds);
    let shown = SHOWN.iter().filter_map(|(name, title, decimals)| {
        let value = summary.medians.get(name)?;
        Some(vec![(*title).to_owned(), format!("{value:.decimals$}")])
    });
    let rate = summary.medians.get("per_second");
    let report = Report {
        scenario: "slow",
        title: format!(
            "A refresh of {} accounts, {concurrency} in flight, {latency} ms at the PDS; medians of {} rounds",
            grouped(u64::from(accounts)),
            options.rounds
        ),
        settings: json!({
            "accounts": accounts, "latency_ms": latency, "concurrency": concurrency,
            "rounds": options.rounds,
        }),
        head: vec![String::new(), "daemon".to_owned()],
        lines: shown.collect(),
        bounds: vec![Bound::at_least("refreshes/s", 4_000.0, "", rate)],
        notes: Vec::new(),
        doubts: summary.doubts("daemon"),
        measured: json!(summary),
    };
    report.publish(&options.out)
}
