//! refreshd keeps Bluesky (AT Protocol) sessions alive.
//!
//! The walk: [`scheduler`] and [`planner`] turn what is due into jobs of the [`queue`]; a
//! [`worker`] hands each to [`refresh`], which performs what [`domain::attempt`] says with the
//! [`journal`], the server ([`pds`]), its [`budget`] and the [`store`]; [`events`] tells how it
//! ended. What a crash or a lost reply leaves in the journal is taken up by [`repair`]; while
//! Redis is away, [`direct`] can do without the queue. Posts that wait in the application's queues
//! ([`bullmq`]) are given new tokens by [`posts`]; what it asks for over its queue is served by [`requests`].

pub mod budget;
pub mod bullmq;
pub mod capacity;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod direct;
pub mod domain;
pub mod events;
pub mod http;
pub mod journal;
pub mod lifecycle;
pub mod link;
pub mod logging;
pub mod pds;
pub mod planner;
pub mod posts;
pub mod queue;
pub mod refresh;
pub mod repair;
pub mod requests;
pub mod scheduler;
pub mod store;
pub mod worker;
