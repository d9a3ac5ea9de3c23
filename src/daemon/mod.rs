//! The composition root: builds the parts, waits for what they need, supervises, drains.

mod former;
pub(crate) mod start;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::DateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::bullmq::BullMq;
use crate::bullmq::requests::Requests;
use crate::capacity::Lookout;
use crate::clock::Clock;
use crate::config::Config;
use crate::direct::Direct;
use crate::domain::decide::Policy;
use crate::domain::forecast::Shortage;
use crate::domain::outcome::Outcome;
use crate::domain::renewal::Lead;
use crate::events::{PostSyncs, RequestCounts};
use crate::http;
use crate::journal::Journal;
use crate::lifecycle::{self, Exit, Signals};
use crate::link::{Health, Link};
use crate::pds;
use crate::planner::{self, Planner, Wakes};
use crate::posts::{self, Posts};
use crate::queue::{Drained, Finished, Instance, Job, Keys, Leadership, Queue, Slot};
use crate::refresh::{self, Refresher};
use crate::repair::{self, Repairer};
use crate::requests;
use crate::scheduler::Scheduler;
use crate::store::{Store, StoreConfig};
use crate::worker;

/// How long what is still open after the drain may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
    /// The application's queues of posts; `None`: they are not looked after.
    pub bullmq: Option<BullMq>,
    /// Where word of changed pairs is left for them.
    pub posts: Posts,
    /// What came of it.
    pub syncs: PostSyncs,
    /// The queue in which the application asks for refreshes; `None`: it is not served.
    pub requests: Option<Requests>,
    /// What became of its jobs.
    pub served: RequestCounts,
}

impl Services {
    /// Makes the clients; nothing is connected yet.
    pub async fn new(config: &Config) -> anyhow::Result<Self> {
        let link = Link::new(config.redis.target.clone())?;
        let store = Store::connect(&StoreConfig {
            uri: config.mongo.uri.clone(),
            database: config.mongo.database.clone(),
            collection: config.mongo.collection.clone(),
        })
        .await?;
        let keys = Keys::new(&config.redis.key_prefix, store.database(), store.collection());
        let queue =
            Queue::new(link.clone(), keys.clone(), instance(&config.pds.egress_id), config.workers);
        let posts = &config.posts;
        let bullmq = (!posts.queues.is_empty()).then(|| BullMq::new(link.clone(), posts.clone()));
        let posts = if bullmq.is_some() { Posts::on() } else { Posts::off() };
        let (mongo, syncs) = (config.mongo.hosts.clone(), PostSyncs::default());
        let (prefix, other) = (&config.posts.prefix, config.requests.other.as_deref());
        let served_queue = config.requests.queue.as_deref();
        let requests = served_queue.map(|queue| Requests::new(link.clone(), prefix, queue, other));
        let served = RequestCounts::default();
        Ok(Self { link, store, mongo, queue, keys, bullmq, posts, syncs, requests, served })
    }
}

/// Its name no other process has: two on one host, or one after the other, are told apart.
fn instance(egress_id: &str) -> Instance {
    let name = format!("{egress_id}-{}-{:08x}", std::process::id(), rand::random::<u32>());
    Instance { name, egress_id: egress_id.to_owned() }
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
    let life = Life::default();
    life.tasks.spawn(lifecycle::watchdog(life.end.clone()));
    tokio::select! {
        prepared = start::prepare(&config, &life) => match prepared? {
            Some((services, journal)) => {
                let exit = work(&config, services, &journal, (&mut signals, &life)).await;
                // Whatever is left in it is the next start's.
                let _late = timeout(LAST_WORDS, journal.close()).await;
                exit
            }
            None => Ok(Exit::Unavailable),
        },
        name = signals.next() => {
            tracing::info!(event = "stop", signal = name, "{name} before the start was done");
            Ok(Exit::Fine)
        }
    }
}

/// The daemon's tasks, and what ends them.
#[derive(Debug, Default)]
struct Life {
    tasks: TaskTracker,
    /// The drain begins: nothing new is started.
    stop: CancellationToken,
    /// The drain is over: what it needed too ends.
    end: CancellationToken,
}

/// The daemon at work: from ready until it is asked, or forced, to stop.
async fn work(
    config: &Config,
    services: Services,
    journal: &Journal,
    (signals, life): (&mut Signals, &Life),
) -> anyhow::Result<Exit> {
    let clock = Clock::system();
    let budget = budget(config, &services);
    let (end, neighbours) =
        (life.end.clone(), introduce(services.queue.leadership(), Arc::clone(&budget)));
    life.tasks.spawn(async move { end.run_until_cancelled(neighbours).await });
    let shortages = look_out(config, &services, &budget, life);
    let admin = admin(config, &services, (journal, shortages), &clock, life).await?;
    let refresher = refresher(config, &services, journal, (&budget, &clock))?;
    let refresher = Arc::new(refresher);
    // What was received in a former life comes before anything new.
    if !settled(&refresher, signals).await {
        return Ok(Exit::Fine);
    }
    keep_posts(config, &services, &clock, life);
    serve_requests(&services, &clock, life);
    let wakes = Wakes::default();
    plan(config, &services, (&budget, &clock), wakes.clone(), life);
    let repairer = Repairer::new(Arc::clone(&refresher), services.queue.clone());
    life.tasks.spawn(repairer.run(life.stop.clone()));
    if config.life.redis_down_exit_after.is_none() {
        let health = services.link.health();
        let direct = Direct::new(Arc::clone(&refresher), health, config.workers);
        life.tasks.spawn(direct.run(life.stop.clone()));
    }
    let handler = move |job, slot| work_on(Arc::clone(&refresher), wakes.clone(), (job, slot));
    let queue = services.queue.clone();
    let (drain, grace) = (life.stop.child_token(), config.life.shutdown);
    let mut workers = std::pin::pin!(queue.run(handler, &life.tasks, drain, grace));

    // The manager may be slow to listen; the work is not.
    life.tasks.spawn(lifecycle::ready());
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
    life.tasks.spawn(lifecycle::stopping());
    life.stop.cancel();
    let drained = async {
        let drained = workers.await?;
        life.end.cancel();
        life.tasks.close();
        // Requests to the admin API that are still open, and a last write.
        let _late = timeout(LAST_WORDS, life.tasks.wait()).await;
        Ok(stopped(exit, drained))
    };
    tokio::select! {
        exit = drained => exit,
        name = signals.next() => {
            tracing::warn!(event = "stop", signal = name, "{name} again: stopping at once");
            Ok(Exit::Failed)
        }
    }
}

/// Works one job to its end. One that is to be tried again soon wakes the planner, should that be
/// this instance's.
async fn work_on(refresher: Arc<Refresher>, wakes: Wakes, (job, slot): (Job, Slot)) -> Finished {
    let (report, finished) = worker::carry_out(&refresher, &job, &|| slot.free()).await;
    let again = match report.outcome {
        Outcome::Refreshed => None,
        // Whoever changed it made it due, perhaps while its job was still there.
        Outcome::Superseded => Some(DateTime::UNIX_EPOCH),
        _ => report.next_attempt_at,
    };
    // One that is superseded before its document is read through names no server.
    if let (Some(service), Some(at)) = (report.service.as_ref().or(job.service.as_ref()), again) {
        wakes.wake(service, at);
    }
    finished
}

/// Tells the budget who else spends, as the heartbeats hear of it.
async fn introduce(mut leadership: watch::Receiver<Leadership>, budget: Arc<Budget>) {
    loop {
        budget.shared_by(leadership.borrow_and_update().egresses.clone());
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Settles the journal's answers; false: a signal came first.
async fn settled(refresher: &Refresher, signals: &mut Signals) -> bool {
    tokio::select! {
        () = repair::settle(refresher) => true,
        name = signals.next() => {
            tracing::info!(event = "stop", signal = name, "{name} before the journal was settled");
            false
        }
    }
}

/// The refresher of a daemon, or of a command that does a daemon's work.
pub(crate) fn refresher(
    config: &Config,
    services: &Services,
    journal: &Journal,
    (budget, clock): (&Arc<Budget>, &Clock),
) -> anyhow::Result<Refresher> {
    let pds = pds::Client::new(&pds::ClientConfig {
        timeout: config.pds.timeout,
        routing_home: config.pds.home.clone(),
        allow_private: config.pds.allow_private,
        max_idle_per_host: config.workers,
    })?;
    Ok(Refresher::new(refresh::Parts {
        store: services.store.clone(),
        clock: clock.clone(),
        journal: journal.clone(),
        pds,
        budget: Arc::clone(budget),
        routing: config.pds.routing(),
        policy: Policy {
            confirm_after: config.pds.confirm_after,
            suspect: false,
            lead: config.schedule.lead,
        },
        posts: services.posts.clone(),
    }))
}

/// The budgets as this instance's egress address has them.
pub(crate) fn budget(config: &Config, services: &Services) -> Arc<Budget> {
    Arc::new(Budget::new(
        services.link.clone(),
        services.keys.prefix(),
        &config.pds.egress_id,
        config.pds.per_second,
    ))
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

async fn admin(
    config: &Config,
    services: &Services,
    (journal, shortages): (&Journal, watch::Receiver<Vec<Shortage>>),
    clock: &Clock,
    life: &Life,
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
        shortages,
        syncs: services.syncs.clone(),
        served: services.served.clone(),
        journal_health: journal.health(),
        journal: journal.clone(),
        clock: clock.clone(),
        token: config.admin.token.clone(),
    };
    life.tasks.spawn(http::serve(listener, http::router(api), life.stop.clone()));
    Ok(Some(bound))
}

/// Has somebody look out for budgets that are too small, if accounts are to be kept fresh at all.
fn look_out(
    config: &Config,
    services: &Services,
    budget: &Arc<Budget>,
    life: &Life,
) -> watch::Receiver<Vec<Shortage>> {
    let (found, shortages) = watch::channel(Vec::new());
    if let Some(lead) = config.schedule.lead {
        let lookout = Lookout {
            store: services.store.clone(),
            budget: Arc::clone(budget),
            home: config.pds.home.clone(),
            lead,
            found,
        };
        life.tasks.spawn(lookout.run(life.stop.clone()));
    }
    shortages
}

/// Has somebody keep the tokens of queued posts up to date, until the last refresh is done.
fn keep_posts(config: &Config, services: &Services, clock: &Clock, life: &Life) {
    let Some(bullmq) = services.bullmq.clone() else { return };
    let parts = posts::Parts {
        bullmq,
        store: services.store.clone(),
        queue: services.queue.clone(),
        lead: config.schedule.lead.unwrap_or(Lead::USUAL),
        clock: clock.clone(),
        syncs: services.syncs.clone(),
    };
    if let Some(keeper) = posts::Keeper::new(parts, &services.posts) {
        life.tasks.spawn(keeper.run(life.end.clone()));
    }
}

/// Has somebody serve the application's own requests, if it is to be served.
fn serve_requests(services: &Services, clock: &Clock, life: &Life) {
    let Some(requests) = services.requests.clone() else { return };
    let server = requests::Server::new(requests::Parts {
        requests,
        store: services.store.clone(),
        queue: services.queue.clone(),
        clock: clock.clone(),
        counts: services.served.clone(),
    });
    life.tasks.spawn(server.run(life.stop.clone(), life.end.clone()));
}

fn plan(
    config: &Config,
    services: &Services,
    (budget, clock): (&Arc<Budget>, &Clock),
    wakes: Wakes,
    life: &Life,
) {
    let parts = planner::Parts {
        store: services.store.clone(),
        queue: services.queue.clone(),
        budget: Arc::clone(budget),
        routing: config.pds.routing(),
        lead: config.schedule.lead,
        wakes,
        posts: services.posts.clone(),
        clock: clock.clone(),
    };
    life.tasks.spawn(Planner::new(parts).run(life.stop.clone()));
    if let Some(cron) = &config.schedule.cron {
        let scheduler = Scheduler {
            store: services.store.clone(),
            queue: services.queue.clone(),
            schedule: cron.clone(),
            limit: config.schedule.limit.unwrap_or(0),
            clock: clock.clone(),
        };
        life.tasks.spawn(scheduler.run(life.stop.clone()));
    }
}

/// Ends when Redis has been away for `limit`; without one, never.
async fn redis_lost(link: &Link, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
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
