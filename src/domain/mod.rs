//! The pure core: no I/O, no clock, no randomness. `now` and random draws are arguments.

pub mod account;
pub mod answer;
pub mod appraisal;
pub mod attempt;
pub mod backoff;
pub mod brake;
pub mod breaker;
pub mod decide;
pub mod forecast;
pub mod identity;
pub mod moment;
pub mod number;
pub mod outcome;
pub mod pending;
pub mod queued;
pub mod renewal;
pub mod request;
pub mod routing;
pub mod run;
pub mod schedule;
pub mod session;
pub mod settle;
