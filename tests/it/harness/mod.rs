//! What the tests run against.

pub(crate) mod cable;
pub(crate) mod mongo;
