//! The `refreshd` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    refreshd::cli::main()
}
