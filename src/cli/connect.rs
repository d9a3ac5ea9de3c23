//! The services, for a command that does its work and ends: reached soon, or not at all.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use crate::config::Config;
use crate::daemon::Services;
use crate::journal::JournalError;
use crate::lifecycle::Exit;
use crate::queue::QueueError;
use crate::store::StoreError;

/// How long a service may take to answer for the first time. The drivers' own patience is as long,
/// and their errors say more: this is for those that hang otherwise.
const PATIENCE: Duration = Duration::from_millis(5_500);

/// A service that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unavailable(String);

/// Redis and MongoDB, both there.
pub(super) async fn connect(config: &Config) -> anyhow::Result<Services> {
    let services = services(config).await?;
    let (redis, mongo) = tokio::join!(redis(&services), mongo(&services, config));
    match (redis, mongo) {
        (Ok(()), Ok(())) => Ok(services),
        (Err(why), Ok(())) | (Ok(()), Err(why)) => Err(Unavailable(why).into()),
        (Err(redis), Err(mongo)) => Err(Unavailable(format!("{redis}\n       {mongo}")).into()),
    }
}

/// The clients, not connected yet; bounded, because `mongodb+srv` asks the DNS.
pub(super) async fn services(config: &Config) -> anyhow::Result<Services> {
    match timeout(PATIENCE, Services::new(config)).await {
        Ok(services) => services,
        Err(_elapsed) => {
            let why = format!("MongoDB at {} cannot be found in the DNS", config.mongo.hosts);
            Err(Unavailable(why).into())
        }
    }
}

/// Whether Redis answers; why not, in one sentence with its address.
pub(super) async fn redis(services: &Services) -> Result<(), String> {
    match timeout(PATIENCE, services.link.ping()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(services.link.explain(&error)),
        Err(_elapsed) => Err(format!("redis at {} does not answer", services.link.place())),
    }
}

/// Whether MongoDB answers; why not, in one sentence with its address.
pub(super) async fn mongo(services: &Services, config: &Config) -> Result<(), String> {
    let hosts = &config.mongo.hosts;
    match timeout(PATIENCE, services.store.ping()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("MongoDB at {hosts}: {error}")),
        Err(_elapsed) => Err(format!("MongoDB at {hosts} does not answer")),
    }
}

/// The exit status for an error.
pub(super) fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(known).unwrap_or(Exit::Failed)
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if cause.is::<Unavailable>() {
        return Some(Exit::Unavailable);
    }
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        let away = error.is_transient() || *error == StoreError::BadLogin;
        let config = matches!(error, StoreError::BadUri(_));
        return if away { Some(Exit::Unavailable) } else { config.then_some(Exit::Config) };
    }
    if let Some(error) = cause.downcast_ref::<JournalError>() {
        return Some(of_journal(error));
    }
    if let Some(QueueError::Redis(_)) = cause.downcast_ref::<QueueError>() {
        return Some(Exit::Unavailable);
    }
    let io = cause.downcast_ref::<io::Error>()?;
    // `| head` has read enough.
    (io.kind() == io::ErrorKind::BrokenPipe).then_some(Exit::Fine)
}

/// What starting again cannot mend is the configuration's fault; a full disk or another process may
/// be gone by then.
fn of_journal(error: &JournalError) -> Exit {
    match error {
        JournalError::Version { .. } | JournalError::Foreign { .. } => Exit::Config,
        JournalError::Io { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => Exit::Config,
            _ => Exit::Failed,
        },
        JournalError::Locked { .. } => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_have_exit_statuses() {
        let unreachable = StoreError::Unreachable("x".to_owned());
        for (error, exit) in [
            (anyhow::Error::new(Unavailable("x".to_owned())), Exit::Unavailable),
            (anyhow::Error::new(unreachable), Exit::Unavailable),
            (anyhow::Error::new(StoreError::BadUri("x".to_owned())), Exit::Config),
            (anyhow::Error::new(StoreError::NotAllowed("x")), Exit::Failed),
            (anyhow::Error::new(QueueError::Redis("x".to_owned())), Exit::Unavailable),
            (anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)), Exit::Fine),
            (anyhow::Error::new(io::Error::other("x")), Exit::Failed),
            (anyhow::anyhow!("x"), Exit::Failed),
        ] {
            assert_eq!(exit_of(&error), exit, "{error:?}");
            assert_eq!(exit_of(&Err::<(), _>(error).context("while").unwrap_err()), exit);
        }
    }
}
