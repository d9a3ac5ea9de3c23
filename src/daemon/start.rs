//! The start: waits for Redis, MongoDB and the journal, says what it waits for, and looks around.

use std::path::Path;
use std::time::Duration;

use anyhow::Error;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Life, Services, former};
use crate::config::Config;
use crate::journal::{Journal, JournalError};
use crate::link::ServerInfo;
use crate::store::StoreError;

/// A service that has not answered within this time is told of, whatever its driver still hopes.
const AT_ONCE: Duration = Duration::from_secs(1);
/// While the start waits for a service, it says so this often.
const SAY_EVERY: Duration = Duration::from_secs(5);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// Makes the clients and waits until both services can be used and the journal is this process's;
/// `None`: one could not within `STARTUP_TIMEOUT`, and the log says which and why. The link to
/// Redis is kept from then on.
///
/// # Errors
/// If the configuration describes no service at all, or if there can be no journal.
pub(super) async fn prepare(
    config: &Config,
    life: &Life,
) -> anyhow::Result<Option<(Services, Journal)>> {
    let deadline = Instant::now() + config.life.startup;
    let hosts = &config.mongo.hosts;
    // A `mongodb+srv` address is looked up in the DNS, which may be away like any service.
    let made = wait_for("MongoDB", hosts, deadline, async || match Services::new(config).await {
        Err(error) if is_transient(&error) => Err(error.to_string()),
        made => Ok(made),
    });
    let services = match made.await {
        Some(services) => services?,
        None => return Ok(None),
    };
    life.tasks.spawn(services.link.clone().keep(life.end.clone()));
    let place = services.link.place();
    let redis = wait_for("Redis", &place, deadline, async || {
        services.link.server_info().await.map_err(|error| services.link.explain(&error))
    });
    let mongo = wait_for("MongoDB", hosts, deadline, async || {
        services.store.ping().await.map_err(|error| error.to_string())
    });
    let (Some(redis), Some(())) = tokio::join!(redis, mongo) else { return Ok(None) };
    // A process that drains has the journal until it is done.
    let dir = &config.state_dir;
    let place = dir.display().to_string();
    let opened = wait_for("the journal", &place, deadline, async || match open(dir).await {
        Err(error) if matches!(error, JournalError::Locked { .. }) => Err(error.to_string()),
        opened => Ok(opened),
    });
    let Some(journal) = opened.await.transpose()? else { return Ok(None) };
    former::bury(dir, &services.queue).await;
    look_around(&services, &redis).await;
    Ok(Some((services, journal)))
}

/// Takes the journal, and says which pieces of it cannot be read.
pub(crate) async fn open(dir: &Path) -> Result<Journal, JournalError> {
    let folder = dir.to_owned();
    let opening = tokio::task::spawn_blocking(move || Journal::open(&folder));
    let (journal, opened) = opening.await.unwrap_or(Err(JournalError::Closed))?;
    for damage in &opened.damage {
        let place = dir.display();
        tracing::error!(event = "journal.damaged", "the journal in STATE_DIR ({place}): {damage}");
    }
    Ok(journal)
}

fn is_transient(error: &Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_transient)
}

/// Tries until it works; `None` after the deadline.
async fn wait_for<T>(
    service: &str,
    place: &str,
    deadline: Instant,
    usable: impl AsyncFn() -> Result<T, String>,
) -> Option<T> {
    let began = Instant::now();
    let mut told: Option<(Instant, String)> = None;
    let mut tell = |why: &str| {
        let is_news =
            told.as_ref().is_none_or(|(at, what)| what != why || at.elapsed() >= SAY_EVERY);
        if is_news {
            let why_here = sentence(why, place);
            tracing::warn!(event = "start", service, place, "waiting for {service}: {why_here}");
            told = Some((Instant::now(), why.to_owned()));
        }
    };
    let mut why = "it does not answer".to_owned();
    let mut pause = PAUSE_FIRST;
    loop {
        let mut trying = std::pin::pin!(timeout_at(deadline, usable()));
        let tried = match timeout(AT_ONCE, &mut trying).await {
            Ok(tried) => tried,
            Err(_slow) => {
                tell(&why);
                trying.await
            }
        };
        match tried {
            Ok(Ok(usable)) => return Some(usable),
            Ok(Err(error)) => why = error,
            Err(_elapsed) => {}
        }
        if Instant::now() + pause >= deadline {
            let (waited_s, why) = (began.elapsed().as_secs(), sentence(&why, place));
            tracing::error!(
                event = "start",
                service,
                place,
                waited_s,
                "{service} cannot be used, giving up after STARTUP_TIMEOUT: {why}"
            );
            return None;
        }
        tell(&why);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
}

/// The reason, and the address where it does not name that itself.
fn sentence(why: &str, place: &str) -> String {
    if why.contains(place) { why.to_owned() } else { format!("{why} (at {place})") }
}

/// What is worth knowing before the work begins; nothing here stops it.
async fn look_around(services: &Services, redis: &ServerInfo) {
    match services.store.ensure_indexes().await {
        Ok(_report) => {}
        Err(StoreError::NotAllowed { .. }) => tracing::warn!(
            event = "indexes",
            "this MongoDB user may not create indexes; without them every run reads the whole collection: \
             create them as an administrator (README, \"Indexes\")"
        ),
        Err(error) => tracing::warn!(event = "indexes", %error, "the indexes could not be created"),
    }
    if !redis.is_new_enough() {
        tracing::warn!(event = "config", version = redis.version, "Redis 6.2 or newer is needed");
    }
    if redis.maxmemory_policy != "noeviction" {
        tracing::warn!(
            event = "config",
            policy = redis.maxmemory_policy,
            "Redis may evict jobs: set maxmemory-policy to noeviction"
        );
    }
}
