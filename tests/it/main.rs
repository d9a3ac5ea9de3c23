//! Tests against real services: one binary, one file per behaviour.

mod harness;
mod queue;
