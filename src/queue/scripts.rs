//! The scripts that run inside Redis: each is one atomic step of the queue.

use redis::Script;

/// A script of these files, one after the other.
macro_rules! script {
    ($($file:literal),+) => {
        Script::new(concat!(include_str!("lua/lanes.lua"), $("\n", include_str!($file)),+))
    };
}

/// The scripts, hashed once.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) enqueue: Script,
    pub(super) lease: Script,
    pub(super) fetch: Script,
    pub(super) ack: Script,
    pub(super) beat: Script,
    pub(super) reclaim: Script,
    pub(super) status: Script,
    pub(super) depth: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            enqueue: script!("lua/adding.lua", "lua/enqueue.lua"),
            lease: script!("lua/adding.lua", "lua/lease.lua"),
            fetch: script!("lua/fetch.lua"),
            ack: script!("lua/ack.lua"),
            beat: script!("lua/putback.lua", "lua/beat.lua"),
            reclaim: script!("lua/putback.lua", "lua/reclaim.lua"),
            status: script!("lua/status.lua"),
            depth: script!("lua/depth.lua"),
        }
    }
}
