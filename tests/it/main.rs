//! The tests that need more than a function: one binary, one file per behaviour.

#[cfg(test)]
mod harness;
#[cfg(test)]
mod link;
#[cfg(test)]
mod queue;
