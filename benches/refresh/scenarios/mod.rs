//! What is measured: a file each.

mod compare;

use crate::options::{Options, Role};

/// Runs what was asked for; says whether all of it is a result.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    match &options.role {
        None | Some(Role::Compare) => compare::run(options).await,
        _ => anyhow::bail!("not yet"),
    }
}
