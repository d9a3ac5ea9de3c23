//! The tests that need more than a function: one binary, one file per behaviour.

#[cfg(test)]
mod app;
#[cfg(test)]
mod bluesky;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod freshness;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod http;
#[cfg(test)]
mod instances;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod link;
#[cfg(test)]
mod pds;
#[cfg(test)]
mod posts;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod steady;
#[cfg(test)]
mod store;
#[cfg(test)]
mod ticks;
#[cfg(test)]
mod wipes;
#[cfg(test)]
mod writers;

/// The program under test.
#[cfg(test)]
fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_refreshd")
}
