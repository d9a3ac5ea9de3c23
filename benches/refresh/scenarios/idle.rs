//! Nothing to do: what it costs to stand ready.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, USUAL_LIFE, grouped};
use crate::daemon::Daemon;
use crate::figures::disturbed;
use crate::fleet::Due;
use crate::meter::Meter;
use crate::options::Options;
use crate::proc;
use crate::progress::Progress;
use crate::report::{Bound, Report, short};

const ACCOUNTS: u32 = 100_000;

/// How long the servers are watched without the daemon: this program's own connections are there.
const ALONE: Duration = Duration::from_secs(20);

/// After a start, until nothing of it is left.
const SETTLE: Duration = Duration::from_secs(15);

/// Measures, prints and writes.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let progress = Progress::new();
    let accounts = options.accounts.unwrap_or(ACCOUNTS);
    let bed = Bed::start(&options.out, (USUAL_LIFE, 0), &progress).await?;
    bed.fill(accounts, Due::Between(3_600, 5_000), &progress).await?;
    let alone = greetings_alone(&bed, &progress).await?;
    let concurrency = options.concurrency.unwrap_or(64);
    let daemon = Daemon::start(&bed, concurrency, &[("KEEP_FRESH", "true")]).await?;
    progress.say("waiting until the start is over");
    daemon.rest().await?;
    sleep(SETTLE).await;

    let meter = Meter::new(&bed, daemon.pid()).await?;
    let (before, called) = (meter.read().await?, bed.server.calls().await?);
    progress.say(&format!("measuring for {} s", options.seconds));
    let time = Duration::from_secs(u64::from(options.seconds));
    let used = processor_time(daemon.pid(), time).await?;
    let after = meter.read().await?;
    let seconds = after.since(&before).as_secs_f64();
    let greetings = (after.mongo_greetings(&before) - alone * seconds).max(0.0);
    let [core, redis, trips, mongo] = [
        used.as_secs_f64() / seconds * 100.0,
        after.redis_commands(&before) / seconds,
        after.redis_trips(&before) / seconds,
        (after.mongo_commands(&before) + greetings) / seconds,
    ];
    let (rss, peak) = (proc::rss(daemon.pid())?, proc::peak_rss(daemon.pid())?);
    let calls = bed.server.calls().await? - called;
    anyhow::ensure!(calls == 0, "{calls} calls were made, although nothing was due");
    daemon.stop().await?;
    progress.end();

    let figures = after.figures(&before, 1);
    let lines = [
        ("% of a core", core),
        ("Redis commands sent a second", trips),
        ("… with those inside scripts", redis),
        ("MongoDB commands a second", mongo),
        ("… of these greetings of the driver", greetings / seconds),
        ("RSS, MB", rss),
        ("peak RSS since the start, MB", peak),
    ];
    let report = Report {
        scenario: "idle",
        title: format!(
            "{} fresh accounts, nothing due, over {} s",
            grouped(u64::from(accounts)),
            options.seconds
        ),
        settings: json!({ "accounts": accounts, "seconds": options.seconds }),
        head: vec![String::new(), "daemon".to_owned()],
        lines: lines.iter().map(|(title, it)| vec![(*title).to_owned(), short(*it)]).collect(),
        bounds: vec![
            Bound::at_most("of a core", 0.1, "%", Some(core)),
            Bound::at_most("Redis commands sent a second", 1.0, "", Some(trips)),
            Bound::at_most("MongoDB commands a second", 1.0, "", Some(mongo)),
            Bound::at_most("RSS", 15.0, "MB", Some(rss)),
        ],
        notes: Vec::new(),
        doubts: disturbed(&figures).into_iter().collect(),
        measured: json!({
            "core_percent": core, "redis_commands_per_second": redis,
            "redis_trips_per_second": trips, "mongo_commands_per_second": mongo,
            "mongo_greetings_per_second": greetings / seconds, "rss_mb": rss, "peak_rss_mb": peak,
            "others_percent": figures.get("others_percent"),
        }),
    };
    report.publish(&options.out)
}

/// How often a second MongoDB is greeted without the daemon.
async fn greetings_alone(bed: &Bed, progress: &Progress) -> anyhow::Result<f64> {
    progress.say("watching the servers without the daemon");
    let meter = Meter::new(bed, std::process::id()).await?;
    let before = meter.read().await?;
    sleep(ALONE).await;
    let after = meter.read().await?;
    Ok(after.mongo_greetings(&before) / after.since(&before).as_secs_f64())
}

/// The processor time that all threads of a process use meanwhile, to the nanosecond. What a
/// thread uses in its last second is lost.
async fn processor_time(pid: u32, time: Duration) -> anyhow::Result<Duration> {
    let (begun, mut used) = (Instant::now(), Duration::ZERO);
    let mut before = proc::thread_times(pid)?;
    while begun.elapsed() < time {
        sleep(Duration::from_secs(1).min(time.saturating_sub(begun.elapsed()))).await;
        let now = proc::thread_times(pid)?;
        used += since(&before, &now);
        before = now;
    }
    Ok(used)
}

fn since(before: &BTreeMap<String, Duration>, now: &BTreeMap<String, Duration>) -> Duration {
    let each = now
        .iter()
        .map(|(thread, time)| time.saturating_sub(before.get(thread).copied().unwrap_or_default()));
    each.sum()
}
