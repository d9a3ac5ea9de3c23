//! What the tests run against.

pub(crate) mod scripted_pds;
