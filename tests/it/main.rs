//! The tests that need more than a function: one binary, one file per behaviour.

#[cfg(test)]
mod bluesky;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod http;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod link;
#[cfg(test)]
mod pds;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod store;

/// The program under test.
#[cfg(test)]
fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_refreshd")
}
