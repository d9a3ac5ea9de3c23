//! The command line: one file per subcommand.

mod accounts;
mod adopt;
mod args;
mod check;
mod connect;
mod journal;
mod output;
mod refresh;
mod status;
mod wait;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::config::{Config, Sources};
use crate::daemon;
use crate::lifecycle::Exit;
use crate::logging;
use args::{Cli, Command};

/// Does what the command line says; answers with the exit status.
pub fn main() -> ExitCode {
    // Losing the race against nobody: this is the first thing that happens.
    drop(rustls::crypto::ring::default_provider().install_default());
    let exit = match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command.unwrap_or(Command::Run)),
        Err(error) => usage(&error),
    };
    exit.into()
}

/// Help and version are answers, everything else is a mistake.
fn usage(error: &clap::Error) -> Exit {
    drop(error.print());
    if error.use_stderr() { Exit::Usage } else { Exit::Fine }
}

fn dispatch(command: Command) -> Exit {
    if let Command::Completions { shell } = command {
        return completions(shell);
    }
    let config = match Config::load(&Sources::of_process()) {
        Ok(config) => config,
        Err(errors) => {
            output::note(format_args!("error: {errors}"));
            return Exit::Config;
        }
    };
    // One thread does all that is not blocking: a refresh is many short steps, and handing them from
    // thread to thread cost a fifth of its time (docs/performance.md).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format_args!("error: the runtime cannot be started: {error}"));
            return Exit::Failed;
        }
    };
    let is_terminal = std::io::stderr().is_terminal();
    let is_daemon = matches!(command, Command::Run);
    let log = is_daemon.then(|| logging::init(&config.log, is_terminal)).transpose();
    // Dropped last, when all that there is to say has been said.
    let _log = match log {
        Ok(log) => log,
        Err(error) => {
            output::note(format_args!("error: {error}"));
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(carry_out(command, config));
    // A blocking read of stdin or a look-up in the DNS does not hold the exit up.
    runtime.shutdown_background();
    exit
}

async fn carry_out(command: Command, config: Config) -> Exit {
    let is_daemon = matches!(command, Command::Run);
    let done = match command {
        Command::Run => daemon::run(config).await,
        Command::Check => check::check(&config).await,
        Command::Refresh(args) => refresh::refresh(&config, &args).await,
        Command::Accounts(args) => accounts::accounts(&config, &args).await,
        Command::Status(args) => status::status(&config, &args).await,
        Command::Adopt(args) => adopt::adopt(&config, &args).await,
        Command::Journal(args) => journal::journal(&config, &args).await,
        Command::Completions { shell } => Ok(completions(shell)),
    };
    done.unwrap_or_else(|error| {
        let exit = connect::exit_of(&error);
        match exit {
            Exit::Fine => {}
            _ if is_daemon => tracing::error!(event = "stop", "{error:#}"),
            _ => output::note(format_args!("error: {error:#}")),
        }
        exit
    })
}

fn completions(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "refreshd", &mut script);
    match output::line(String::from_utf8_lossy(&script).trim_end()) {
        Ok(()) => Exit::Fine,
        Err(error) => connect::exit_of(&error.into()),
    }
}
