//! What a refresh costs: the daemon beside a bare loop and a Node worker, and the daemon alone at
//! its limits. `scripts/bench` builds and starts it.
//!
//! One program in several roles, so that one build makes all: the conductor (`scenarios`), and as
//! processes of their own that it starts, the scripted server (`pds`) and the bare loop (`floor`).

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures and progress are what it is for"
)]
#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "what is counted becomes figures"
)]

mod bed;
mod counting;
mod daemon;
mod figures;
mod fleet;
mod floor;
mod machine;
mod meter;
mod options;
mod pds;
mod proc;
mod program;
mod progress;
mod report;
mod scenarios;
mod server;
mod worker;

#[path = "../../tests/it/harness/mod.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests use the rest, and it is a harness: what is wrong ends it at once"
)]
mod harness;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use options::{Options, Role};

/// Measured, but on a machine that was busy with other things.
const NO_RESULT: u8 = 3;

/// As a shell says it of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// Where the daemon's program is: `scripts/bench` built it.
fn binary() -> String {
    harness::part("REFRESHD_BIN")
}

fn main() -> ExitCode {
    let options = Options::parse();
    let ended = match &options.role {
        Some(Role::Pds(given)) => pds::serve(given).map(|()| ExitCode::SUCCESS),
        Some(Role::Floor(given)) => floor::run(given).map(|()| ExitCode::SUCCESS),
        _ => conduct(&options),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs the scenarios that were asked for, until they are through or a signal comes: what they
/// have started ends with them.
fn conduct(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let signalled = async {
            tokio::select! {
                _ = interrupt.recv() => "interrupted",
                _ = terminate.recv() => "terminated",
            }
        };
        tokio::select! {
            is_result = scenarios::run(options) => {
                let is_result = is_result.context("nothing was measured to the end")?;
                Ok(if is_result { ExitCode::SUCCESS } else { ExitCode::from(NO_RESULT) })
            }
            how = signalled => {
                eprintln!("\nbench: {how} before the end: no result; everything that was started is stopped");
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    })
}
