//! What is measured: a file each.

mod compare;
mod fleet;
mod idle;
mod latency;
mod million;
mod slow;
mod start;

use crate::options::{Options, Role};

/// Runs what was asked for; says whether all of it is a result.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    match &options.role {
        Some(Role::Fleet) => fleet::run(options).await,
        Some(Role::Idle) => idle::run(options).await,
        Some(Role::Million) => million::run(options).await,
        Some(Role::Latency) => latency::run(options).await,
        Some(Role::Slow) => slow::run(options).await,
        Some(Role::Start) => start::run(options).await,
        Some(Role::All) => all(options).await,
        _ => compare::run(options).await,
    }
}

/// The short ones first.
async fn all(options: &Options) -> anyhow::Result<bool> {
    let mut is_result = compare::run(options).await?;
    is_result &= start::run(options).await?;
    is_result &= latency::run(options).await?;
    is_result &= slow::run(options).await?;
    is_result &= idle::run(options).await?;
    is_result &= fleet::run(options).await?;
    is_result &= million::run(options).await?;
    Ok(is_result)
}
