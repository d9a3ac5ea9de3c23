//! An end to every wait: the driver has no socket time-out, so a network that swallows packets
//! would hold a call for ever.

use std::time::Duration;

use super::error::StoreError;

/// How long one call may take, its server selection and its wait for a majority included.
pub(super) const LONGEST_CALL: Duration = Duration::from_secs(30);
/// How long the server may work on one read.
pub(super) const LONGEST_READ: Duration = Duration::from_secs(10);
/// How long a pass over all accounts, or the building of an index, may take.
pub(super) const LONGEST_SCAN: Duration = Duration::from_mins(10);

pub(super) async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_elapsed) => {
            Err(StoreError::Unanswered(format!("nothing came within {} s", limit.as_secs())))
        }
    }
}
