//! refreshd keeps Bluesky sessions alive.

pub mod clock;
pub mod config;
pub mod domain;
pub mod logging;
