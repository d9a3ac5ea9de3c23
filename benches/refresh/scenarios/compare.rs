//! Daemon, floor and peer side by side: a refresh of every account, in turn and repeated.

use serde_json::{Map, Value, json};

use crate::bed::{Bed, USUAL_LIFE, grouped};
use crate::counting::Counted;
use crate::figures::{Figures, SHOWN, Summary};
use crate::fleet::Due;
use crate::options::{Options, Who};
use crate::program::Program;
use crate::progress::Progress;
use crate::report::{Bound, Report};

const ACCOUNTS: u32 = 20_000;
const CONCURRENCY: u32 = 64;
const ALL: [Who; 3] = [Who::Daemon, Who::Floor, Who::Peer];

/// What one program came to.
struct Column {
    who: Who,
    summary: Summary,
    counted: Counted,
}

/// Measures, prints and writes.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let progress = Progress::new();
    let (accounts, latency) =
        (options.accounts.unwrap_or(ACCOUNTS), options.latency.unwrap_or_default());
    let concurrency = options.concurrency.unwrap_or(CONCURRENCY);
    let (programs, missing) = programs(options)?;
    let bed = Bed::start(&options.out, (USUAL_LIFE, latency), &progress).await?;
    bed.fill(accounts, Due::Never, &progress).await?;
    let columns = columns(&bed, &programs, (concurrency, options.rounds), &progress).await?;
    progress.end();

    let mut notes = notes(&columns);
    notes.extend(missing);
    if bed.is_in_memory()? {
        notes.push("The daemon's state lies in memory: its fsyncs cost nothing.".to_owned());
    }
    let report = Report {
        scenario: "compare",
        title: format!(
            "A refresh of {} accounts, {concurrency} in flight, {latency} ms at the PDS; medians of {} rounds, and their spread",
            grouped(u64::from(accounts)),
            options.rounds
        ),
        settings: json!({
            "accounts": accounts, "latency_ms": latency, "concurrency": concurrency,
            "rounds": options.rounds,
            "daemon": "release build, journal on disk, JSON log at info to a file, KEEP_FRESH=false, PDS_RATE_LIMIT=off",
        }),
        measured: measured(&columns),
        head: head(&columns),
        lines: lines(&columns),
        bounds: bounds(&columns),
        notes,
        doubts: columns.iter().flat_map(|it| it.summary.doubts(it.who.name())).collect(),
    };
    report.publish(&options.out)
}

/// Which programs there are to measure, and a sentence for each that is missing.
fn programs(options: &Options) -> anyhow::Result<(Vec<Who>, Option<String>)> {
    let wanted: Vec<_> = ALL
        .into_iter()
        .filter(|who| options.only.is_empty() || options.only.contains(who))
        .collect();
    #[expect(clippy::disallowed_methods, reason = "scripts/setup says what is installed")]
    let has_peer = ["REFRESHD_NODE", "REFRESHD_PEER"].iter().all(|it| std::env::var(it).is_ok());
    if has_peer || !wanted.contains(&Who::Peer) {
        return Ok((wanted, None));
    }
    let why = "the peer's Node and packages are not installed (scripts/setup peer)";
    let rest: Vec<_> = wanted.into_iter().filter(|who| *who != Who::Peer).collect();
    anyhow::ensure!(!rest.is_empty(), "{why}");
    Ok((rest, Some(format!("Without the peer: {why}."))))
}

/// All rounds of all programs, in turn, so that whatever disturbs disturbs each.
async fn columns(
    bed: &Bed,
    programs: &[Who],
    (concurrency, rounds): (u32, u32),
    progress: &Progress,
) -> anyhow::Result<Vec<Column>> {
    let accounts = bed.world.accounts().count_documents(mongodb::bson::doc! {}).await?;
    let warm = Program::start(Who::Floor, bed, concurrency).await?;
    warm.measure(bed, accounts, (progress, "warming up")).await?;
    let mut figures = vec![Vec::new(); programs.len()];
    for round in 1..=rounds {
        for (who, figures) in programs.iter().zip(&mut figures) {
            let title = format!("round {round} of {rounds}, {}", who.name());
            progress.tick(&title);
            let program = Program::start(*who, bed, concurrency).await?;
            let found = program.measure(bed, accounts, (progress, &title)).await?;
            progress.note(&format!("{title}: {}", told(&found)));
            figures.push(found);
        }
    }
    let mut columns = Vec::new();
    for (who, figures) in programs.iter().zip(figures) {
        progress.say(&format!("counting system calls and commands of the {}", who.name()));
        let program = Program::start(*who, bed, concurrency).await?;
        let counted = program.count(bed, accounts).await?;
        columns.push(Column { who: *who, summary: Summary::of(figures), counted });
    }
    Ok(columns)
}

fn told(figures: &Figures) -> String {
    let figure = |name| figures.get(name).unwrap_or_default();
    format!(
        "{:.1} CPU µs per refresh, {:.0} refreshes/s, {:.1} MB",
        figure("cpu_us"),
        figure("per_second"),
        figure("peak_rss_mb")
    )
}

impl Column {
    fn median(&self, name: &str) -> Option<f64> {
        match name {
            "syscalls" => self.counted.syscalls,
            "redis_calls" => Some(self.counted.redis_calls),
            _ => self.summary.medians.get(name),
        }
    }

    fn cell(&self, name: &str, decimals: usize) -> String {
        let Some(median) = self.median(name) else { return "not measured".to_owned() };
        match self.summary.spreads_percent.get(name) {
            Some(spread) => format!("{median:.decimals$} ({spread:.0} %)"),
            None => format!("{median:.decimals$}"),
        }
    }
}

fn head(columns: &[Column]) -> Vec<String> {
    let names = columns.iter().map(|column| column.who.name().to_owned());
    std::iter::once(String::new()).chain(names).collect()
}

fn lines(columns: &[Column]) -> Vec<Vec<String>> {
    let line = |(name, title, decimals): &(&str, &str, usize)| {
        let cells = columns.iter().map(|column| column.cell(name, *decimals));
        std::iter::once((*title).to_owned()).chain(cells).collect()
    };
    SHOWN.iter().map(line).collect()
}

fn notes(columns: &[Column]) -> Vec<String> {
    let by: Vec<_> = columns
        .iter()
        .map(|column| format!("{}: {}", column.who.name(), column.counted.syscalls_by))
        .collect();
    vec![
        format!("System calls and commands sent are of a round of their own, counted by {}.", by.join(", ")),
        "A Redis round trip is one read of Redis from a client: a pipeline, or a script with all its commands, is one."
            .to_owned(),
    ]
}

fn measured(columns: &[Column]) -> Value {
    let programs: Map<_, _> = columns
        .iter()
        .map(|column| {
            let both = json!({ "timed": column.summary, "counted": column.counted });
            (column.who.name().to_owned(), both)
        })
        .collect();
    let ratios = |other: Who| {
        let names =
            ["cpu_us", "per_second", "peak_rss_mb", "redis_cpu_us", "mongo_cpu_us", "syscalls"];
        let ratios = names.iter().filter_map(|name| Some((*name, ratio(columns, name, other)?)));
        ratios.collect::<Figures>()
    };
    json!({
        "programs": programs,
        "daemon_to_floor": ratios(Who::Floor), "daemon_to_peer": ratios(Who::Peer),
    })
}

/// The daemon's median, as a multiple of another program's.
fn ratio(columns: &[Column], name: &str, other: Who) -> Option<f64> {
    let of = |who| columns.iter().find(|it| it.who == who)?.median(name);
    of(other).filter(|it| *it > 0.0).and_then(|other| Some(of(Who::Daemon)? / other))
}

fn bounds(columns: &[Column]) -> Vec<Bound> {
    let daemon = columns.iter().find(|column| column.who == Who::Daemon);
    let trips = daemon.and_then(|it| it.median("redis_trips"));
    let ratio = |name, other| ratio(columns, name, other);
    vec![
        Bound::at_most("CPU per refresh, daemon to floor", 2.0, "×", ratio("cpu_us", Who::Floor)),
        Bound::at_most("CPU per refresh, daemon to peer", 0.1, "×", ratio("cpu_us", Who::Peer)),
        Bound::at_least("refreshes/s, daemon to floor", 0.6, "×", ratio("per_second", Who::Floor)),
        Bound::at_most("Redis round trips per refresh", 0.5, "", trips),
        Bound::at_most(
            "Redis CPU per refresh, daemon to peer",
            0.2,
            "×",
            ratio("redis_cpu_us", Who::Peer),
        ),
    ]
}
