//! A refresh-all over a million accounts: neither memory nor the cost of one grows with them.

use serde_json::json;

use crate::bed::{Bed, USUAL_LIFE, grouped};
use crate::figures::{Figures, SHOWN, Summary, disturbed};
use crate::fleet::Due;
use crate::options::{Options, Who};
use crate::program::Program;
use crate::progress::Progress;
use crate::report::{Bound, Report};

const MANY: u32 = 1_000_000;
const FEW: u32 = 10_000;
const CONCURRENCY: u32 = 64;

/// Measures, prints and writes.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let progress = Progress::new();
    let many = options.accounts.unwrap_or(MANY).max(2 * FEW);
    let concurrency = options.concurrency.unwrap_or(CONCURRENCY);
    let latency = options.latency.unwrap_or_default();
    let bed = Bed::start(&options.out, (USUAL_LIFE, latency), &progress).await?;
    bed.fill(FEW, Due::Never, &progress).await?;
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        let title = format!("{} accounts, round {round}", grouped(u64::from(FEW)));
        rounds.push(pass(&bed, (FEW, concurrency), (&progress, &title)).await?);
    }
    let few = Summary::of(rounds);
    bed.fill(many - FEW, Due::Never, &progress).await?;
    let title = format!("{} accounts", grouped(u64::from(many)));
    let all = pass(&bed, (many, concurrency), (&progress, &title)).await?;
    progress.end();

    let lines = SHOWN.iter().filter_map(|(name, title, decimals)| {
        let (few, all) = (few.medians.get(name)?, all.get(name)?);
        Some(vec![(*title).to_owned(), format!("{few:.decimals$}"), format!("{all:.decimals$}")])
    });
    let ratio = all.get("cpu_us").zip(few.medians.get("cpu_us")).map(|(all, few)| all / few);
    let report = Report {
        scenario: "million",
        title: format!(
            "A refresh of {} accounts, and of {} (medians of {} rounds)",
            grouped(u64::from(many)),
            grouped(u64::from(FEW)),
            options.rounds
        ),
        settings: json!({
            "accounts": [FEW, many], "concurrency": concurrency, "latency_ms": latency,
            "rounds": options.rounds,
        }),
        head: [String::new(), grouped(u64::from(FEW)), grouped(u64::from(many))].into(),
        lines: lines.collect(),
        bounds: vec![
            Bound::at_most("peak RSS", 40.0, "MB", all.get("peak_rss_mb")),
            Bound::at_most("CPU per refresh, many to few", 1.1, "×", ratio),
        ],
        notes: Vec::new(),
        doubts: few.doubts("daemon").into_iter().chain(disturbed(&all)).collect(),
        measured: json!({ "few": few, "many": all }),
    };
    report.publish(&options.out)
}

async fn pass(
    bed: &Bed,
    (accounts, concurrency): (u32, u32),
    shown: (&Progress, &str),
) -> anyhow::Result<Figures> {
    let daemon = Program::start(Who::Daemon, bed, concurrency).await?;
    daemon.measure(bed, u64::from(accounts), shown).await
}
