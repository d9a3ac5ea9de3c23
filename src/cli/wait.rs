//! Waiting for what was asked for, in front of a person: a bar on a terminal, lines elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use super::output::note;
use crate::lifecycle::Signals;

/// Without a terminal, a line this often says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How often is asked.
const POLL: Duration = Duration::from_millis(250);

/// For how long nothing but errors is put up with: a restart of Redis, a fail-over of MongoDB.
const PATIENCE: Duration = Duration::from_mins(1);

/// How far something is.
#[derive(Debug)]
pub(super) enum Progress<T> {
    /// So many are done, and this is going on.
    Open(u64, String),
    /// It is over.
    Over(T),
}

/// Asks `look` until it is over. `None`: the person stopped waiting.
pub(super) async fn wait<T, E: std::error::Error + Send + Sync + 'static>(
    total: u64,
    look: impl AsyncFn() -> Result<Progress<T>, E>,
) -> anyhow::Result<Option<T>> {
    let mut signals = Signals::listen()?;
    let bar = bar(total);
    let waited = tokio::select! {
        over = poll(&bar, look) => over.map(Some),
        _signal = signals.next() => Ok(None),
    };
    bar.finish_and_clear();
    waited
}

async fn poll<T, E: std::error::Error + Send + Sync + 'static>(
    bar: &ProgressBar,
    look: impl AsyncFn() -> Result<Progress<T>, E>,
) -> anyhow::Result<T> {
    let terminal = stderr().is_terminal();
    let mut said = Instant::now();
    let mut answered = Instant::now();
    loop {
        match look().await {
            Ok(Progress::Over(end)) => return Ok(end),
            Ok(Progress::Open(done, what)) => {
                answered = Instant::now();
                if !terminal && said.elapsed() >= SAY_EVERY {
                    said = Instant::now();
                    note(format_args!("{done} done, {what}"));
                }
                bar.set_length(bar.length().unwrap_or(0).max(done));
                bar.set_position(done);
                bar.set_message(what);
            }
            Err(error) if answered.elapsed() > PATIENCE => return Err(error.into()),
            Err(error) => bar.set_message(error.to_string()),
        }
        sleep(POLL).await;
    }
}

/// Hidden when stderr is no terminal.
fn bar(total: u64) -> ProgressBar {
    let template = "{bar:30} {pos}/{len}  {elapsed_precise}  {wide_msg}";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_template| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style);
    bar.enable_steady_tick(POLL);
    bar
}
