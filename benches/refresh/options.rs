//! What can be asked for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// The command line. `scripts/bench --help` explains it.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench", disable_help_flag = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    /// How many accounts, instead of the scenario's own number.
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) accounts: Option<u32>,
    /// How long the server takes for a call, in milliseconds.
    #[arg(long, global = true)]
    pub(crate) latency: Option<u64>,
    /// Of `compare`: this program only; can be given more than once.
    #[arg(long, global = true, value_enum)]
    pub(crate) only: Vec<Who>,
    /// Of `compare`: how often each program is measured.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Calls in flight, instead of the scenario's own number.
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: Option<u32>,
    /// Of `fleet` and `idle`: for how long it is measured.
    #[arg(long, global = true, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// The folder for results, logs and the daemon's state.
    #[arg(long, global = true, default_value = "target/bench")]
    pub(crate) out: PathBuf,
}

/// A scenario, or a part that the conductor starts as a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Daemon, floor and peer side by side.
    Compare,
    /// A large fleet kept fresh.
    Fleet,
    /// Nothing to do.
    Idle,
    /// A refresh-all over a million accounts.
    Million,
    /// From a request to the call.
    Latency,
    /// A server that takes its time.
    Slow,
    /// The start, and the program's size.
    Start,
    /// All of them, one after the other.
    All,
    #[command(hide = true)]
    Pds(PdsArgs),
    #[command(hide = true)]
    Floor(FloorArgs),
}

/// How the scripted server is started.
#[derive(Debug, Args)]
pub(crate) struct PdsArgs {
    /// How long the access tokens live, in seconds.
    #[arg(long)]
    pub(crate) access_life: u64,
    /// How long a call takes, in milliseconds.
    #[arg(long = "takes")]
    pub(crate) latency: u64,
}

/// How the bare loop is started.
#[derive(Debug, Args)]
pub(crate) struct FloorArgs {
    #[arg(long)]
    pub(crate) mongo: String,
    #[arg(long)]
    pub(crate) pds: String,
    #[arg(long)]
    pub(crate) in_flight: usize,
}

/// A program that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    Daemon,
    Floor,
    Peer,
}

impl Who {
    /// As it is called in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Floor => "floor",
            Self::Peer => "peer",
        }
    }
}
