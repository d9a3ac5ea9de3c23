//! The words of the command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config;
use crate::domain::identity::AccountId;

const SETTINGS: &str = "\
Settings come from the environment, then .env in the working directory, then the TOML file that
REFRESHD_CONFIG names (config/refreshd.toml if it is there). MONGODB_URI is the only one that must
be set; .env.example and config/refreshd.toml explain them all.

Exit status: 0 fine, 64 usage, 69 a service cannot be reached, 75 Redis was lost for too long,
78 bad configuration, 1 anything else.

Examples:
  refreshd check                        would the daemon work here?
  refreshd                              run the daemon in the foreground
  refreshd refresh --all --wait         refresh every account now, with a progress bar
  refreshd accounts --status revoked    whose owners have to log in again?";

/// Keeps Bluesky sessions alive: refreshes the stored tokens on schedule and on request
#[derive(Debug, Parser)]
#[command(name = "refreshd", version, max_term_width = 100, after_help = SETTINGS)]
pub(super) struct Cli {
    /// `run` when there is none.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub(super) enum Command {
    /// Run the daemon in the foreground (also without any command)
    ///
    /// SIGTERM and SIGINT let the jobs that run come to their end, within limits; a second signal stops at once. The
    /// log goes to stderr.
    Run,
    /// Check settings, Redis, MongoDB, the servers and the request budget
    ///
    /// Lists every problem with what to do about it, and changes nothing. The exit status is 0 only if the daemon
    /// would work.
    Check,
    /// Ask the running daemon for a refresh of all accounts, or of one
    Refresh(RefreshArgs),
    /// List the Bluesky accounts and how they are
    Accounts(AccountsArgs),
    /// Show the queue, the runs and the accounts in numbers
    Status(StatusArgs),
    /// Take over the queue in which the application asks for refreshes
    Adopt(AdoptArgs),
    /// List what the journal holds: calls that may have happened, answers not yet stored
    Journal(JournalArgs),
    /// Write the completions of a shell to stdout
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").args(["all", "account"]).required(true))]
#[command(after_help = "\
The exit status with --wait is 0 only if every account was refreshed.

Examples:
  refreshd refresh --all --wait
  refreshd refresh --account 6806a8c4302c4281518c95b2 --wait")]
pub(super) struct RefreshArgs {
    /// All accounts that were not disconnected
    #[arg(long)]
    pub(super) all: bool,
    /// One account, by the _id of its document
    #[arg(long, value_name = "ID")]
    pub(super) account: Option<AccountId>,
    /// Wait until it is done; Ctrl-C stops the waiting, not the refresh
    #[arg(long)]
    pub(super) wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refreshd accounts --status error
  refreshd accounts --json | jq -r 'select(.failures > 3) | .handle'")]
pub(super) struct AccountsArgs {
    /// Only those with this status: active, error, expired, revoked, or one of the application's own, such as
    /// inactive
    #[arg(long)]
    pub(super) status: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// As a JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Shows the application's BullMQ queue, who serves it and what has piled up in it; says what would change, and asks.
The settings are written to .env in the working directory, or printed where there is none. Stop the old worker first.

Examples:
  refreshd adopt
  refreshd adopt --other other-refreshes     which the worker of other platforms serves from now on")]
pub(super) struct AdoptArgs {
    /// The queue that is taken over; without this the one that is set, else token-refreshes
    #[arg(long, value_name = "NAME", value_parser = queue_name)]
    pub(super) queue: Option<String>,
    /// Where jobs for other platforms go; without this the one that is set, if one is
    #[arg(long, value_name = "NAME", value_parser = queue_name)]
    pub(super) other: Option<String>,
    /// Do it without asking
    #[arg(long)]
    pub(super) yes: bool,
}

fn queue_name(text: &str) -> Result<String, String> {
    config::Requests::name(text).ok_or_else(|| {
        "not the name of a queue (expected letters, digits or any of . _ - { })".to_owned()
    })
}

#[derive(Debug, Args)]
#[command(after_help = "\
A daemon settles its own journal by itself. --adopt is for the STATE_DIR of one that will not start again, on this
machine or copied from another.

Examples:
  refreshd journal
  refreshd journal --adopt /mnt/old-host/var/lib/refreshd")]
pub(super) struct JournalArgs {
    /// Settle what a dead instance left in this folder, then empty it
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    pub(super) adopt: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_refresh_needs_to_know_whom() {
        let parse =
            |words: &[&str]| Cli::try_parse_from([&["refreshd", "refresh"], words].concat());
        let id = "6806a8c4302c4281518c95b2";
        assert!(parse(&["--all"]).is_ok());
        assert!(parse(&["--account", id, "--wait"]).is_ok());
        for bad in [
            &[][..],
            &["--wait"],
            &["--all", "--account", id],
            &["--account", "alice"],
            &["--account"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(Cli::try_parse_from(["refreshd"]).unwrap().command.is_none());
    }
}
