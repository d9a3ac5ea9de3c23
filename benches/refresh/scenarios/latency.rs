//! From a request to the call: while there is nothing else to do, and while there is much.

use std::time::Duration;

use chrono::Utc;
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, USUAL_LIFE, grouped};
use crate::daemon::Daemon;
use crate::figures::{median, percentile};
use crate::fleet::Due;
use crate::harness::world::text;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{Bound, Report, short};

const ACCOUNTS: u32 = 100_000;
const LATENCY: u64 = 20;
const SAMPLES: u32 = 500;

/// Between two requests.
const APART: Duration = Duration::from_millis(20);

/// Times of many requests, in milliseconds.
#[derive(Debug, Default)]
struct Times {
    /// From the request to the admin API until the call reached the server.
    from_request: Vec<f64>,
    /// From the admin API's answer, by when the job is in the queue.
    from_answer: Vec<f64>,
}

/// Measures, prints and writes.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let progress = Progress::new();
    let accounts = options.accounts.unwrap_or(ACCOUNTS);
    let latency = options.latency.unwrap_or(LATENCY);
    let samples = SAMPLES.min(accounts / 4).max(1);
    let bed = Bed::start(&options.out, (USUAL_LIFE, latency), &progress).await?;
    bed.fill(accounts, Due::Never, &progress).await?;
    let daemon = Daemon::start(&bed, options.concurrency.unwrap_or(64), &[]).await?;
    daemon.rest().await?;
    // Runs walk by `_id`: the last ones are not reached while these are asked for.
    let last = last(&bed, 2 * samples).await?;
    let (first, second) = last.split_at(last.len() / 2);
    let idle = ask_each(&bed, &daemon, first, (&progress, "idle")).await?;
    let begun = bed.server.calls().await?;
    let run = daemon.ask_for_run().await?;
    while bed.server.calls().await? < begun + 100 {
        sleep(Duration::from_millis(5)).await;
    }
    let busy = ask_each(&bed, &daemon, second, (&progress, "busy")).await?;
    let done = daemon.state("runs", &run).await?;
    let meanwhile = done.get("state").and_then(Value::as_str) != Some("done");
    let behind = u64::from(accounts).saturating_sub(bed.server.calls().await? - begun);
    progress.end();

    let beyond = percentile(&busy.from_request, 99).map(|it| it - latency as f64);
    let idle_call = median(&idle.from_request);
    let lines = [
        ("idle: from the request", &idle.from_request),
        ("idle: from its answer", &idle.from_answer),
        ("during a refresh-all: from the request", &busy.from_request),
        ("during a refresh-all: from its answer", &busy.from_answer),
    ];
    let report = Report {
        scenario: "latency",
        title: format!(
            "From a request for one account until its call reaches the PDS, ms; {samples} requests; {} accounts, {latency} ms at the PDS",
            grouped(u64::from(accounts))
        ),
        settings: json!({ "accounts": accounts, "latency_ms": latency, "samples": samples }),
        head: ["", "median", "p99", "longest"].map(str::to_owned).into(),
        lines: lines
            .map(|(title, times)| {
                let of = |percent| percentile(times, percent).map_or_else(String::new, short);
                vec![title.to_owned(), of(50), of(99), of(100)]
            })
            .into(),
        bounds: vec![
            Bound::at_most("idle: to the call, median", 3.0, "ms", idle_call),
            Bound::at_most("busy: p99 beyond the PDS's latency", 50.0, "ms", beyond),
        ],
        notes: vec![
            "A request includes the HTTP call and the look for the account; the job is queued before its answer. \
             The handler's first line comes before its call and cannot be seen from outside."
                .to_owned(),
            format!("When the last was asked for, {} accounts of the refresh-all were waiting.", grouped(behind)),
        ],
        doubts: (!meanwhile)
            .then(|| "the refresh-all was over before the last request".to_owned())
            .into_iter()
            .collect(),
        measured: json!({
            "idle_ms": { "from_request": idle.from_request, "from_answer": idle.from_answer },
            "busy_ms": { "from_request": busy.from_request, "from_answer": busy.from_answer },
        }),
    };
    report.publish(&options.out)
}

/// Ids and DIDs of so many accounts, those that a run comes to last.
async fn last(bed: &Bed, count: u32) -> anyhow::Result<Vec<(String, String)>> {
    let accounts = bed.world.accounts();
    let all = accounts.find(doc! {}).sort(doc! { "_id": -1 });
    let all = all.limit(i64::from(count)).projection(doc! { "platformAccountId": 1 }).await?;
    let all: Vec<Document> = all.try_collect().await?;
    let named = |account: &Document| {
        Ok((account.get_object_id("_id")?.to_hex(), text(account, "platformAccountId").to_owned()))
    };
    all.iter().map(named).collect()
}

/// One after the other, each when the one before is done.
async fn ask_each(
    bed: &Bed,
    daemon: &Daemon,
    accounts: &[(String, String)],
    (progress, title): (&Progress, &str),
) -> anyhow::Result<Times> {
    #[expect(clippy::disallowed_methods, reason = "to the microsecond, which a Clock is not")]
    let now = || Utc::now().timestamp_micros();
    let (mut times, mut shown) = (Times::default(), Instant::now());
    progress.say(title);
    for (number, (id, did)) in accounts.iter().enumerate() {
        sleep(APART).await;
        let asked = now();
        let job = daemon.ask_for(id).await?;
        let answered = now();
        daemon.done("jobs", &job).await?;
        let called = bed.server.called_at(did).await?;
        let called = called.ok_or_else(|| anyhow::anyhow!("{did} was not called for"))?;
        let millis = |since: i64| (called - since) as f64 / 1e3;
        times.from_request.push(millis(asked));
        times.from_answer.push(millis(answered));
        if shown.elapsed() > Duration::from_millis(250) {
            shown = Instant::now();
            progress.tick(&format!("{title}: {number} of {}", accounts.len()));
        }
    }
    Ok(times)
}
