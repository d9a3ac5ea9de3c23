//! The `refreshd` program.

use std::io::IsTerminal as _;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let config = refreshd::config::Config::load(&refreshd::config::Sources::of_process()).unwrap();
    refreshd::logging::init(&config.log, std::io::stderr().is_terminal()).unwrap();
    refreshd::daemon::run(config).await.unwrap().into()
}
