//! The scripts that run inside Redis: each is one atomic step of the queue.

use redis::Script;

/// What both scripts that take jobs away begin with.
macro_rules! with_putback {
    ($file:literal) => {
        concat!(include_str!("lua/putback.lua"), "\n", include_str!($file))
    };
}

/// The scripts, hashed once.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) enqueue: Script,
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
            enqueue: Script::new(include_str!("lua/enqueue.lua")),
            fetch: Script::new(include_str!("lua/fetch.lua")),
            ack: Script::new(include_str!("lua/ack.lua")),
            beat: Script::new(with_putback!("lua/beat.lua")),
            reclaim: Script::new(with_putback!("lua/reclaim.lua")),
            status: Script::new(include_str!("lua/status.lua")),
            depth: Script::new(include_str!("lua/depth.lua")),
        }
    }
}
