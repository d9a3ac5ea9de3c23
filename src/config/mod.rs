//! The configuration, read once at start: the only reader of the environment.
//!
//! A value comes from the process environment, else `.env` in the working directory, else the TOML
//! file that `REFRESHD_CONFIG` names, else the default. All that is wrong is told at once.

mod problem;
mod queues;
mod reader;
mod redis;
mod sections;
mod settings;
mod sources;

#[cfg(test)]
mod examples;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use self::reader::Reader;
use crate::domain::identity::ServiceUrl;
use crate::domain::renewal::Lead;
use crate::domain::routing::Routing;
use crate::domain::schedule::Schedule as Pattern;

pub use self::problem::{ConfigErrors, Problem};
pub use self::redis::Redis;
pub use self::sources::Sources;

/// Everything that can be set. Its `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the queue lives.
    pub redis: Redis,
    /// Where the accounts live.
    pub mongo: Mongo,
    /// The application's queued posts.
    pub posts: Posts,
    /// The application's own requests for refreshes.
    pub requests: Requests,
    /// How servers are called.
    pub pds: Pds,
    /// When all accounts are refreshed.
    pub schedule: Schedule,
    /// Calls in flight in this instance (`WORKER_CONCURRENCY`).
    pub workers: usize,
    /// The admin API.
    pub admin: Admin,
    /// The folder for what must outlive the process (`STATE_DIR`).
    pub state_dir: PathBuf,
    /// How long the life cycle's steps may take.
    pub life: Life,
    /// What is logged, and how.
    pub log: Log,
    /// What is odd but no error, to be logged as warnings after the start.
    pub notes: Vec<String>,
}

/// Where the accounts live.
#[derive(Debug, Clone)]
pub struct Mongo {
    /// The connection string (`MONGODB_URI`).
    pub uri: SecretString,
    /// The hosts that it names, for people.
    pub hosts: String,
    /// The database: the one in the URI's path, else `MONGO_DB`, else `test`.
    pub database: String,
    /// The accounts' collection.
    pub collection: String,
}

/// The application's queued posts, which carry copies of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posts {
    /// What the keys of its BullMQ queues begin with (`BULLMQ_PREFIX`).
    pub prefix: String,
    /// The queues' names; none when they are not looked after (`BULLMQ_POST_QUEUES`).
    pub queues: Vec<String>,
}

/// The application's own requests for refreshes, which are jobs of a BullMQ queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// The queue's name; `None` when it is not served (`BULLMQ_REFRESH_QUEUE`).
    pub queue: Option<String>,
    /// Where jobs that concern other platforms go (`BULLMQ_OTHER_QUEUE`).
    pub other: Option<String>,
}

impl Requests {
    /// The name that the application gives its queue.
    pub const USUAL: &str = "token-refreshes";

    /// The name of a queue, if it is one that can be set.
    pub fn name(text: &str) -> Option<String> {
        queues::name(text)
    }
}

/// How servers are called.
#[derive(Debug, Clone)]
pub struct Pds {
    /// `BLUESKY_SERVICE_URL`.
    pub home: ServiceUrl,
    /// `PDS_ROUTING` is `audience`.
    pub by_audience: bool,
    /// A server named by a token may be plain http or have a private address.
    pub allow_private: bool,
    /// Calls per second and server; `None` for no limit of our own.
    pub per_second: Option<f64>,
    /// Instances with the same value share one budget.
    pub egress_id: String,
    /// How long one call may take.
    pub timeout: Duration,
    /// How long after the first hearing a second one is believed.
    pub confirm_after: Duration,
}

impl Pds {
    /// Where calls go.
    pub fn routing(&self) -> Routing {
        Routing::new(self.home.clone(), self.by_audience, self.allow_private)
    }
}

/// When accounts are refreshed.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// All of them; `None` when it is off.
    pub cron: Option<Pattern>,
    /// Stop after this many scheduled runs; `None` for never.
    pub limit: Option<u64>,
    /// Each before its access token expires; `None` with `KEEP_FRESH=false`.
    pub lead: Option<Lead>,
}

/// The admin API.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens; `None` when it is off.
    pub listen: Option<SocketAddr>,
    /// Its bearer token: at least 32 visible ASCII characters.
    pub token: Option<SecretString>,
}

/// How long the life cycle's steps may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// How long the start waits for Redis and MongoDB.
    pub startup: Duration,
    /// How long calls in flight may take to end.
    pub shutdown: Duration,
    /// How long Redis may be lost; `None` when that is for as long as it takes.
    pub redis_down_exit_after: Option<Duration>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// Directives that `EnvFilter` has already accepted.
    pub filter: String,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Config {
    /// Reads every setting.
    ///
    /// # Errors
    /// All problems at once: values that do not fit, contradictions, unknown keys in the TOML
    /// file, files that cannot be read.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(sources);
        let config = Self::read(&mut reader);
        let Reader { problems, notes, .. } = reader;
        match config {
            Some(config) if problems.is_empty() => Ok(Self { notes, ..config }),
            _ => Err(ConfigErrors::new(problems)),
        }
    }

    /// Every section is read before one that is missing ends it, so that all problems are found.
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let redis = redis::read(reader);
        let mongo = sections::mongo(reader);
        let posts = queues::posts(reader);
        let requests = queues::requests(reader, posts.as_ref());
        let pds = sections::pds(reader);
        let schedule = sections::schedule(reader);
        let workers = reader.number(&settings::WORKER_CONCURRENCY);
        let admin = sections::admin(reader);
        let state_dir = sections::state_dir(reader);
        let life = sections::life(reader);
        let log = sections::log(reader);
        Some(Self {
            redis: redis?,
            mongo: mongo?,
            posts: posts?,
            requests: requests?,
            pds: pds?,
            schedule: schedule?,
            workers: workers?,
            admin: admin?,
            state_dir: state_dir?,
            life: life?,
            log: log?,
            notes: Vec::new(),
        })
    }
}
