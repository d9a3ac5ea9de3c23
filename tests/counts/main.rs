//! What is counted, so that no machine is too slow or too busy to say whether it has become more. In
//! a binary of its own: it counts every allocation.

#[cfg(test)]
#[path = "../it/harness/mod.rs"]
#[expect(dead_code, reason = "tests/it uses the rest")]
mod harness;
#[cfg(test)]
mod refresh;

/// The program under test, as the harness knows it.
#[cfg(test)]
fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_refreshd")
}
