//! The composition root: builds the parts, waits for what they need, supervises, drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::decide::Policy;
use crate::http;
use crate::lifecycle::{self, Exit, Signals};
use crate::link::{Health, Link};
use crate::pds;
use crate::planner::{self, Planner};
use crate::queue::{Drained, Keys, Queue};
use crate::refresh::Refresher;
use crate::scheduler::Scheduler;
use crate::store::{Store, StoreConfig, StoreError};
use crate::worker;

/// While the start waits for a service, it says so this often.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// The services of one configuration, connected on demand: what the daemon and the other
/// subcommands have in common.
#[derive(Debug, Clone)]
pub struct Services {
    /// Redis.
    pub link: Link,
    /// MongoDB.
    pub store: Store,
    /// Where MongoDB is, for people.
    pub mongo: String,
    /// The jobs.
    pub queue: Queue,
    /// The hash-tagged prefix of all keys.
    pub keys: Keys,
}

impl Services {
    /// Makes the clients; nothing is connected yet.
    pub async fn new(config: &Config) -> anyhow::Result<Self> {
        let link = Link::new(config.redis.target.clone())?;
        let store = Store::connect(&StoreConfig {
            uri: config.mongo.uri.clone(),
            database: Some(config.mongo.database.clone()),
            collection: config.mongo.collection.clone(),
        })
        .await?;
        let keys = Keys::new(&config.redis.key_prefix, store.database(), store.collection());
        let queue =
            Queue::new(link.clone(), keys.clone(), instance(&config.pds.egress_id), config.workers);
        Ok(Self { link, store, mongo: config.mongo.hosts.clone(), queue, keys })
    }
}

/// A name that no other process has: two on one host, or one after the other, are told apart.
fn instance(host: &str) -> String {
    format!("{host}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}

/// Runs the daemon until a signal, or until it cannot go on.
pub async fn run(config: Config) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen().context("the signals cannot be taken over")?;
    tracing::info!(
        event = "start",
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        workers = config.workers,
        "refreshd {} starts",
        env!("CARGO_PKG_VERSION")
    );
    for note in &config.notes {
        tracing::warn!(event = "config", "{note}");
    }
    let services = Services::new(&config).await?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(services.link.clone().keep(stop.clone()));
    tasks.spawn(lifecycle::watchdog(stop.clone()));

    let exit = tokio::select! {
        started = start_up(&services, config.life.startup) => match started {
            Ok(()) => work(&config, services, &mut signals, (&tasks, &stop)).await,
            Err(exit) => Ok(exit),
        },
        name = signals.next() => {
            tracing::info!(event = "stop", signal = name, "{name} before the start was done");
            Ok(Exit::Fine)
        }
    };
    stop.cancel();
    tasks.close();
    let _late = timeout(SAY_EVERY, tasks.wait()).await;
    exit
}

/// Waits for Redis and MongoDB, and says what it waits for.
async fn start_up(services: &Services, patience: Duration) -> Result<(), Exit> {
    let deadline = Instant::now() + patience;
    let redis = wait_for("Redis", services.link.place(), deadline, async || {
        services.link.server_info().await.map(drop).map_err(|error| services.link.explain(&error))
    });
    let mongo = wait_for("MongoDB", services.mongo.clone(), deadline, async || {
        services.store.ping().await.map_err(|error| error.to_string())
    });
    let (redis, mongo) = tokio::join!(redis, mongo);
    if redis && mongo { Ok(()) } else { Err(Exit::Unavailable) }
}

async fn wait_for(
    what: &str,
    place: String,
    deadline: Instant,
    usable: impl AsyncFn() -> Result<(), String>,
) -> bool {
    let mut said = None;
    let mut pause = Duration::from_millis(50);
    loop {
        let tried = tokio::time::timeout_at(deadline, usable()).await;
        let why = match tried {
            Ok(Ok(())) => return true,
            Ok(Err(why)) => why,
            Err(_elapsed) => "it does not answer".to_owned(),
        };
        if Instant::now() + pause >= deadline {
            tracing::error!(
                event = "start",
                service = what,
                "{what} at {place} cannot be used: {why}"
            );
            return false;
        }
        if said.is_none_or(|at: Instant| at.elapsed() >= SAY_EVERY) {
            tracing::warn!(event = "start", service = what, "waiting for {what} at {place}: {why}");
            said = Some(Instant::now());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The daemon at work: from ready until it is asked, or forced, to stop.
async fn work(
    config: &Config,
    services: Services,
    signals: &mut Signals,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> anyhow::Result<Exit> {
    look_around(&services).await;
    let clock = Clock::system();
    let admin = admin(config, &services, &clock, (tasks, stop)).await?;
    let budget = Arc::new(Budget::new(
        services.link.clone(),
        services.keys.prefix(),
        &config.pds.egress_id,
        config.pds.per_second,
    ));
    let routing = config.pds.routing();
    plan(config, &services, (&budget, &clock), (tasks, stop));

    let pds = pds::Client::new(&pds::ClientConfig {
        timeout: config.pds.timeout,
        routing_home: config.pds.home.clone(),
        allow_private: config.pds.allow_private,
        max_idle_per_host: config.workers,
    })?;
    let policy = Policy { confirm_after: config.pds.confirm_after };
    let refresher =
        Arc::new(Refresher::new(services.store.clone(), pds, budget, (routing, policy), clock));
    let handler = move |job| worker::work(Arc::clone(&refresher), job);
    let queue = services.queue.clone();
    let drain = stop.child_token();
    let mut workers = std::pin::pin!(queue.run(handler, tasks, drain, config.life.shutdown));

    lifecycle::ready();
    tracing::info!(event = "ready", admin = admin.map(tracing::field::display), "ready");
    let exit = tokio::select! {
        name = signals.next() => {
            tracing::info!(event = "stop", signal = name, "{name}: finishing the jobs that run");
            Exit::Fine
        }
        () = redis_lost(&services.link, config.life.redis_down_exit_after) => Exit::RedisLost,
        ended = &mut workers => {
            ended?;
            anyhow::bail!("the workers ended without being asked to")
        }
    };
    lifecycle::stopping();
    stop.cancel();
    tokio::select! {
        drained = workers => Ok(stopped(exit, drained?)),
        name = signals.next() => {
            tracing::warn!(event = "stop", signal = name, "{name} again: stopping at once");
            Ok(Exit::Failed)
        }
    }
}

fn stopped(exit: Exit, drained: Drained) -> Exit {
    match drained.released {
        Some(0) => {
            tracing::info!(event = "stopped", "stopped; every job that ran is finished");
            return exit;
        }
        Some(jobs) => tracing::warn!(
            event = "stopped",
            jobs,
            "stopped; {jobs} jobs did not finish within SHUTDOWN_TIMEOUT and will run again"
        ),
        None => tracing::warn!(
            event = "stopped",
            "stopped while Redis is away; jobs that were not finished will run again"
        ),
    }
    if exit == Exit::Fine { Exit::Failed } else { exit }
}

/// What is worth knowing before the work begins; nothing here stops it.
async fn look_around(services: &Services) {
    if services.store.database_was_guessed() {
        tracing::warn!(
            event = "config",
            "MONGODB_URI names no database and MONGO_DB is not set: using \"test\", as mongoose does"
        );
    }
    match services.store.ensure_indexes().await {
        Ok(_report) => {}
        Err(StoreError::NotAllowed { .. }) => tracing::warn!(
            event = "indexes",
            "this MongoDB user may not create indexes; without them every run reads the whole collection: \
             create them as an administrator (README, \"Indexes\")"
        ),
        Err(error) => tracing::warn!(event = "indexes", %error, "the indexes could not be created"),
    }
    if let Ok(info) = services.link.server_info().await {
        if !info.is_new_enough() {
            tracing::warn!(
                event = "config",
                version = info.version,
                "Redis 6.2 or newer is needed"
            );
        }
        if info.maxmemory_policy != "noeviction" {
            tracing::warn!(
                event = "config",
                policy = info.maxmemory_policy,
                "Redis may evict jobs: set maxmemory-policy to noeviction"
            );
        }
    }
}

async fn admin(
    config: &Config,
    services: &Services,
    clock: &Clock,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = config.admin.listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("ADMIN_LISTEN={address} cannot be listened on; choose another address or \"off\"")
    })?;
    let bound = listener.local_addr()?;
    if config.admin.token.is_none() {
        tracing::warn!(event = "config", "the admin API is off: ADMIN_TOKEN is not set");
    }
    let api = http::Api {
        store: services.store.clone(),
        queue: services.queue.clone(),
        link: services.link.clone(),
        clock: clock.clone(),
        token: config.admin.token.clone(),
    };
    tasks.spawn(http::serve(listener, http::router(api), stop.clone()));
    Ok(Some(bound))
}

fn plan(
    config: &Config,
    services: &Services,
    (budget, clock): (&Arc<Budget>, &Clock),
    (tasks, stop): (&TaskTracker, &CancellationToken),
) {
    let parts = planner::Parts {
        store: services.store.clone(),
        queue: services.queue.clone(),
        budget: Arc::clone(budget),
        routing: config.pds.routing(),
        clock: clock.clone(),
    };
    tasks.spawn(Planner::new(parts, config.pds.per_second).run(stop.clone()));
    if let Some(cron) = &config.schedule.cron {
        let scheduler = Scheduler {
            store: services.store.clone(),
            queue: services.queue.clone(),
            schedule: cron.clone(),
            limit: config.schedule.limit.unwrap_or(0),
            clock: clock.clone(),
        };
        tasks.spawn(scheduler.run(stop.clone()));
    }
}

/// Ends when Redis has been away for `limit`.
async fn redis_lost(link: &Link, limit: Duration) {
    let mut health = link.health();
    loop {
        let down = match &*health.borrow_and_update() {
            Health::Up => None,
            Health::Down { since, why } => Some((*since, why.clone())),
        };
        let Some((since, why)) = down else {
            if health.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        if tokio::time::timeout_at(since + limit, health.wait_for(|it| *it == Health::Up))
            .await
            .is_err()
        {
            tracing::error!(
                event = "stop",
                down_s = since.elapsed().as_secs(),
                "Redis has been lost for longer than REDIS_DOWN_EXIT_AFTER ({why}); exiting with status 75 so that \
                 the supervisor starts refreshd again"
            );
            return;
        }
    }
}
