//! A large fleet kept fresh: accounts come due at a rate, and are refreshed at that rate.

use std::time::Duration;

use mongodb::bson::doc;
use serde_json::json;
use tokio::time::{Instant, interval, sleep};

use crate::bed::{Bed, grouped};
use crate::daemon::Daemon;
use crate::figures::{SHOWN, disturbed};
use crate::fleet::Due;
use crate::meter::Meter;
use crate::options::Options;
use crate::proc;
use crate::progress::Progress;
use crate::report::{Bound, Report, short};

const ACCOUNTS: u32 = 400_000;
const CONCURRENCY: u32 = 64;

/// How often each account comes due, in seconds: 400,000 of them make 5,556 a second.
const CYCLE: f64 = 72.0;

/// The share of a token's life after which it is refreshed: `REFRESH_LEAD` is a quarter, and up to
/// a twentieth of the wait is left out.
const REFRESHED_AFTER: f64 = 0.75 * 0.975;

/// Until the first account comes due: the daemon starts meanwhile.
const HEAD_START: f64 = 20.0;

/// Measures, prints and writes.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let progress = Progress::new();
    let accounts = options.accounts.unwrap_or(ACCOUNTS);
    let latency = options.latency.unwrap_or_default();
    let concurrency = options.concurrency.unwrap_or(CONCURRENCY);
    let wanted = f64::from(accounts) / CYCLE;
    let life = Duration::from_secs_f64(CYCLE / REFRESHED_AFTER).as_secs();
    let bed = Bed::start(&options.out, (life, latency), &progress).await?;
    bed.fill(accounts, Due::Between(3_600, 7_200), &progress).await?;
    spread_out(&bed).await?;
    let daemon = Daemon::start(&bed, concurrency, &[("KEEP_FRESH", "true")]).await?;
    let warm = Duration::from_secs_f64(HEAD_START + CYCLE + 10.0);
    watch(&bed, warm, (&progress, "until all were refreshed once")).await?;

    let meter = Meter::new(&bed, daemon.pid()).await?;
    let (before, called) = (meter.read().await?, bed.server.calls().await?);
    let each_second =
        watch(&bed, Duration::from_secs(u64::from(options.seconds)), (&progress, "measuring"))
            .await?;
    let (after, calls) = (meter.read().await?, bed.server.calls().await?);
    let figures = after.figures(&before, calls - called);
    let figures = figures.with("peak_rss_mb", proc::peak_rss(daemon.pid())?);
    let stale = bed.world.stale().await;
    daemon.stop().await?;
    bed.verify(u64::from(accounts)).await?;
    progress.end();

    let shown = SHOWN.iter().filter_map(|(name, title, decimals)| {
        let value = figures.get(name)?;
        Some(vec![(*title).to_owned(), format!("{value:.decimals$}")])
    });
    let slowest = each_second.iter().copied().min().unwrap_or_default();
    let more = [
        ("fewest calls in a second", grouped(slowest)),
        ("accounts whose access token has expired", grouped(stale)),
    ];
    let rate = figures.get("per_second");
    let report = Report {
        scenario: "fleet",
        title: format!(
            "{} accounts kept fresh, each due every {CYCLE} s, {concurrency} in flight, over {} s",
            grouped(u64::from(accounts)),
            options.seconds
        ),
        settings: json!({
            "accounts": accounts, "concurrency": concurrency, "latency_ms": latency,
            "access_token_life_s": life, "seconds": options.seconds,
        }),
        head: vec![String::new(), "daemon".to_owned()],
        lines: shown.chain(more.map(|(title, value)| vec![title.to_owned(), value])).collect(),
        bounds: vec![
            Bound::at_least("refreshes/s held", wanted, "", rate),
            Bound::at_most("accounts with an expired access token", 0.0, "", Some(stale as f64)),
        ],
        notes: vec![format!(
            "The fleet asks for {} a second; where fewer are made, accounts lapse.",
            short(f64::from(accounts) / (life as f64 * REFRESHED_AFTER))
        )],
        doubts: disturbed(&figures).into_iter().collect(),
        measured: json!({ "figures": figures, "calls_each_second": each_second, "stale": stale }),
    };
    report.publish(&options.out)
}

/// Has the accounts come due evenly from soon on, as if the daemon had kept them for long.
async fn spread_out(bed: &Bed) -> anyhow::Result<()> {
    let after =
        doc! { "$add": [HEAD_START * 1e3, { "$multiply": [{ "$rand": {} }, CYCLE * 1e3] }] };
    let next = doc! { "$add": ["$$NOW", { "$toLong": after }] };
    let set = vec![doc! { "$set": { "tokenRefresh.nextAttemptAt": next } }];
    bed.world.accounts().update_many(doc! {}, set).await?;
    Ok(())
}

/// Counts the calls of each second.
async fn watch(
    bed: &Bed,
    time: Duration,
    (progress, title): (&Progress, &str),
) -> anyhow::Result<Vec<u64>> {
    let mut pace = interval(Duration::from_secs(1));
    pace.tick().await;
    let (begun, mut seen, mut counts) = (Instant::now(), bed.server.calls().await?, Vec::new());
    progress.say(title);
    while begun.elapsed() + Duration::from_millis(500) < time {
        pace.tick().await;
        let calls = bed.server.calls().await?;
        counts.push(calls - seen);
        let left = time.saturating_sub(begun.elapsed()).as_secs();
        progress.tick(&format!("{title}: {} calls/s, {left} s to go", grouped(calls - seen)));
        seen = calls;
    }
    sleep(time.saturating_sub(begun.elapsed())).await;
    Ok(counts)
}
