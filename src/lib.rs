//! refreshd keeps Bluesky sessions alive.

pub mod clock;
pub mod domain;
pub mod pds;
pub mod store;
