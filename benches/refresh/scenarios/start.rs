//! From the start of the process to ready, with the services up; and the size of the program.

use std::path::Path;

use serde_json::json;

use crate::bed::{Bed, USUAL_LIFE};
use crate::daemon::Daemon;
use crate::figures::{median, percentile};
use crate::fleet::Due;
use crate::machine;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{Bound, Report, short};

const ACCOUNTS: u32 = 1_000;
const STARTS: usize = 11;

/// In milliseconds.
const LONGEST: f64 = 300.0;

/// Measures, prints and writes.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let progress = Progress::new();
    let accounts = options.accounts.unwrap_or(ACCOUNTS);
    let bed = Bed::start(&options.out, (USUAL_LIFE, 0), &progress).await?;
    bed.fill(accounts, Due::Between(3_600, 5_000), &progress).await?;
    let mut millis = Vec::new();
    for number in 0..=STARTS {
        progress.say(&format!("start {number} of {STARTS}"));
        let keep_fresh = [("KEEP_FRESH", "true")];
        let daemon = Daemon::start(&bed, options.concurrency.unwrap_or(64), &keep_fresh).await?;
        millis.push(daemon.ready_after.as_secs_f64() * 1e3);
        daemon.stop().await?;
    }
    progress.end();
    // The first reads the program from disk.
    let first = millis.remove(0);
    let binary = crate::binary();
    let (size, stripped) = machine::size(Path::new(&binary), &bed.path("stripped"))?;
    let (middle, slowest) = (median(&millis), percentile(&millis, 100).unwrap_or_default());
    let lines = [
        ("start to ready, ms, median", middle.map(short)),
        ("… the slowest", Some(short(slowest))),
        ("… the very first", Some(short(first))),
        ("program without symbols, MB", Some(short(size))),
    ];
    let report = Report {
        scenario: "start",
        title: format!("{STARTS} starts, Redis and MongoDB up, {accounts} accounts"),
        settings: json!({ "accounts": accounts, "starts": STARTS }),
        measured: json!({ "ready_ms": millis, "first_ms": first, "size_mb": size, "stripped": stripped }),
        head: vec![String::new(), "daemon".to_owned()],
        lines: lines.map(|(title, value)| vec![title.to_owned(), value.unwrap_or_default()]).into(),
        bounds: vec![
            Bound::at_most("start to ready", LONGEST, "ms", middle),
            Bound::at_most("program without symbols", 20.0, "MB", stripped.then_some(size)),
        ],
        notes: (!stripped)
            .then(|| "The size is with symbols: there is no `strip` here.".to_owned())
            .into_iter()
            .collect(),
        doubts: (middle.is_some_and(|it| it <= LONGEST) && slowest > LONGEST)
            .then(|| format!("one start took {slowest:.0} ms, although most were within the bound"))
            .into_iter()
            .collect(),
    };
    report.publish(&options.out)
}
