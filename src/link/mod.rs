//! The one connection layer to Redis: connects on demand, replaces what broke, knows whether
//! Redis is there. The adapters that need Redis share it.

mod target;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, Value};
use redis::{Pipeline, RedisError, ScriptInvocation, ServerErrorKind};
use secrecy::ExposeSecret as _;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use target::{DEFAULT_PORT, DEFAULT_SENTINEL_PORT, Nodes, RedisTarget};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const PING_FIRST: Duration = Duration::from_millis(100);
const PING_LAST: Duration = Duration::from_secs(2);

/// Why Redis cannot be used as it was described to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// None of the schemes.
    #[error("REDIS_URL must begin with redis://, rediss:// or redis+sentinel://")]
    Scheme,
    /// Not an address of a server.
    #[error("REDIS_URL is not a Redis address (expected redis://[user:password@]host[:port][/db])")]
    Url,
    /// Not a list of sentinels.
    #[error(
        "REDIS_URL is not a list of sentinels (expected \
         redis+sentinel://[user:password@]host1[:port],host2[:port]/master[/db])"
    )]
    Sentinel,
}

/// Whether Redis is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The last thing that we asked was answered.
    Up,
    /// It was not.
    Down {
        /// Since when.
        since: Instant,
        /// One sentence that says what to do, or what went wrong.
        why: String,
    },
}

/// What [`Link::server_info`] learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `redis_version`, such as `7.0.15`.
    pub version: String,
    /// `maxmemory_policy`; only `noeviction` never drops a job.
    pub maxmemory_policy: String,
}

impl ServerInfo {
    /// Whether the version has all that the queue uses (6.2 and later).
    pub fn is_new_enough(&self) -> bool {
        let mut parts = self.version.split('.').map_while(|it| it.parse::<u32>().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 2)
    }
}

/// Redis, as one shared, multiplexed connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: RedisTarget,
    shared: Mutex<Shared>,
    health: watch::Sender<Health>,
}

#[derive(Debug, Default)]
struct Shared {
    current: Option<Arc<MultiplexedConnection>>,
    /// Those who waited in line while a connect failed share its error.
    failed: Option<(Instant, RedisError)>,
}

impl Link {
    /// Describes the connection; nothing is connected yet.
    pub fn new(target: RedisTarget) -> Result<Self, LinkError> {
        if let Nodes::Server { host, port, tls } = &target.nodes {
            Client::open(target.connection_info(host, *port, *tls)?)
                .map_err(|_source| LinkError::Url)?;
        }
        let down = Health::Down { since: Instant::now(), why: "not connected yet".to_owned() };
        let health = watch::Sender::new(down);
        Ok(Self(Arc::new(Inner { target, shared: Mutex::default(), health })))
    }

    /// Where Redis is, for people.
    pub fn place(&self) -> String {
        self.0.target.place()
    }

    /// Whether Redis is there, as the last answer or failure tells.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    /// Asks Redis for a sign of life.
    pub async fn ping(&self) -> Result<(), RedisError> {
        let _pong: String = self.query(&redis::cmd("PING")).await?;
        Ok(())
    }

    /// Sends one command over the shared connection.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let shared = self.shared().await?;
        let mut connection = (*shared).clone();
        let answer = command.query_async(&mut connection).await;
        self.note(&shared, answer).await
    }

    /// Sends a pipeline over the shared connection.
    pub async fn pipe<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RedisError> {
        let shared = self.shared().await?;
        let mut connection = (*shared).clone();
        let answer = pipeline.query_async(&mut connection).await;
        self.note(&shared, answer).await
    }

    /// Runs a script over the shared connection, and loads it first if Redis does not know it.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let shared = self.shared().await?;
        let mut connection = (*shared).clone();
        let answer = call.invoke_async(&mut connection).await;
        self.note(&shared, answer).await
    }

    /// A connection of the caller's own, for commands that block for up to `block`.
    pub async fn dedicated(&self, block: Duration) -> Result<MultiplexedConnection, RedisError> {
        let connected = self.connect(block + RESPONSE_TIMEOUT).await;
        connected.inspect_err(|error| self.lost(error))
    }

    /// Asks Redis who it is.
    pub async fn server_info(&self) -> Result<ServerInfo, RedisError> {
        let text: String = self.query(&redis::cmd("INFO")).await?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap_or("unknown").trim().to_owned()
        };
        Ok(ServerInfo {
            version: field("redis_version"),
            maxmemory_policy: field("maxmemory_policy"),
        })
    }

    /// Waits until Redis is there. Needs [`Link::keep`], or others' commands, to learn of it.
    pub async fn wait_up(&self) {
        let mut health = self.health();
        // The sender lives as long as `self`.
        let _up = health.wait_for(|it| *it == Health::Up).await;
    }

    /// While Redis is away, asks for it again and again; ends with `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.reconnect()).await;
    }

    /// One sentence that says what to do about `error`.
    pub fn explain(&self, error: &RedisError) -> String {
        let place = self.place();
        let text = error.to_string();
        let says = |what: &str| text.contains(what);
        if says("NOAUTH") {
            format!("redis at {place} asks for a password: set REDIS_PASSWORD")
        } else if says("WRONGPASS") || error.kind() == ErrorKind::AuthenticationFailed {
            // The crate keeps to itself whether that Redis has no password at all.
            format!(
                "redis at {place} refuses the login: check REDIS_USERNAME and REDIS_PASSWORD, \
                 and unset them if it asks for none"
            )
        } else if says("DB index is out of range") {
            format!("redis at {place} has no database {}: check REDIS_DB", self.0.target.db)
        } else if says("OOM") {
            format!("redis at {place} is full: give it more memory (maxmemory)")
        } else if says("MISCONF") {
            format!("redis at {place} cannot write to its disk, and so takes no jobs: see its log")
        } else if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly)) {
            format!(
                "redis at {place} is a replica and takes no jobs: name the primary, or use Sentinel"
            )
        } else if says("NOPERM") {
            format!("redis at {place} does not let this user do all that is needed: {text}")
        } else {
            format!("redis at {place} cannot be used: {text}")
        }
    }

    async fn reconnect(&self) {
        let mut health = self.health();
        loop {
            let mut wait = PING_FIRST;
            while *health.borrow_and_update() != Health::Up {
                if self.prove().await.is_ok() {
                    break;
                }
                sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
                wait = (wait * 2).min(PING_LAST);
            }
            if health.wait_for(|it| *it != Health::Up).await.is_err() {
                return;
            }
        }
    }

    /// Whether Redis would do what is asked of it: a replica answers, too, but takes no writes. A
    /// server that cannot write to its disk refuses the PING as well.
    async fn prove(&self) -> Result<(), RedisError> {
        let used = self.shared().await?;
        let mut connection = (*used).clone();
        let pong: Result<String, _> = redis::cmd("PING").query_async(&mut connection).await;
        let role: Result<Vec<Value>, _> = redis::cmd("ROLE").query_async(&mut connection).await;
        let is_replica = |role: &[Value]| matches!(role.first(), Some(Value::BulkString(name)) if name == b"slave");
        let answer = match (pong, role) {
            (Err(error), _) => Err(error),
            (_, Ok(role)) if is_replica(&role) => {
                let what = (ErrorKind::Server(ServerErrorKind::ReadOnly), "it is a replica");
                Err(RedisError::from(what))
            }
            // Not everybody may ask for the role.
            _ => Ok(()),
        };
        self.note(&used, answer).await
    }

    async fn shared(&self) -> Result<Arc<MultiplexedConnection>, RedisError> {
        let asked = Instant::now();
        let mut shared = self.0.shared.lock().await;
        if let Some(connection) = &shared.current {
            return Ok(Arc::clone(connection));
        }
        if let Some((_, error)) = shared.failed.as_ref().filter(|(at, _)| *at > asked) {
            return Err(error.clone());
        }
        match self.connect(RESPONSE_TIMEOUT).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *shared = Shared { current: Some(Arc::clone(&connection)), failed: None };
                Ok(connection)
            }
            Err(error) => {
                shared.failed = Some((Instant::now(), error.clone()));
                self.lost(&error);
                Err(error)
            }
        }
    }

    async fn connect(&self, response: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response));
        timeout(CONNECT_TIMEOUT, self.0.target.connect(&config)).await.unwrap_or_else(|_elapsed| {
            Err(RedisError::from((ErrorKind::Io, "no connection within 5 seconds")))
        })
    }

    /// Learns from an answer, or a failure, on the shared connection.
    async fn note<T>(
        &self,
        used: &Arc<MultiplexedConnection>,
        answer: Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        match &answer {
            Err(error) if is_lost(error) => {
                let mut shared = self.0.shared.lock().await;
                shared.current.take_if(|current| Arc::ptr_eq(current, used));
                drop(shared);
                self.lost(error);
            }
            _ => self.found(),
        }
        answer
    }

    fn found(&self) {
        if *self.0.health.borrow() == Health::Up {
            return;
        }
        let before = self.0.health.send_replace(Health::Up);
        if let Health::Down { since, .. } = before {
            let place = self.place();
            tracing::info!(
                event = "redis.up",
                away_s = since.elapsed().as_secs(),
                "redis at {place} is there"
            );
        }
    }

    fn lost(&self, error: &RedisError) {
        let why = self.explain(error);
        self.0.health.send_if_modified(|health| match health {
            Health::Up => {
                tracing::warn!(event = "redis.down", "redis is lost, reconnecting: {why}");
                *health = Health::Down { since: Instant::now(), why };
                true
            }
            Health::Down { why: before, .. } if *before != why => {
                *before = why;
                true
            }
            Health::Down { .. } => false,
        });
    }
}

impl RedisTarget {
    async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let refused =
            |_: LinkError| RedisError::from((ErrorKind::InvalidClientConfig, "bad address"));
        match &self.nodes {
            Nodes::Server { host, port, tls } => {
                let info = self.connection_info(host, *port, *tls).map_err(refused)?;
                Client::open(info)?.get_multiplexed_async_connection_with_config(config).await
            }
            Nodes::Sentinels { hosts, master } => {
                let hosts =
                    hosts.iter().map(|(host, port)| ConnectionAddr::Tcp(host.clone(), *port));
                let mut builder =
                    SentinelClientBuilder::new(hosts, master, SentinelServerType::Master)?
                        .set_client_to_redis_db(self.db);
                if let Some(username) = &self.username {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = &self.password {
                    builder = builder.set_client_to_redis_password(password.expose_secret());
                }
                builder.build()?.get_async_connection_with_config(config).await
            }
        }
    }
}

/// Whether the connection, or the server behind it, is of no use any more: the next command
/// connects anew, and asks the sentinels anew.
fn is_lost(error: &RedisError) -> bool {
    let server = matches!(
        error.kind(),
        ErrorKind::Io
            | ErrorKind::AuthenticationFailed
            | ErrorKind::Server(
                ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::BusyLoading
            )
    );
    server
        || error.is_unrecoverable_error()
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "MISCONF"))
        // Redis 6.2 wraps what a script ran into.
        || error.detail().is_some_and(|it| it.contains("-READONLY") || it.contains("-MISCONF"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str) -> ServerInfo {
        ServerInfo { version: version.to_owned(), maxmemory_policy: String::new() }
    }

    #[test]
    fn versions_from_6_2_are_new_enough() {
        for (version, enough) in [
            ("6.2.0", true),
            ("7.0.15", true),
            ("10.0", true),
            ("6.0.16", false),
            ("unknown", false),
        ] {
            assert_eq!(info(version).is_new_enough(), enough, "{version}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let link = Link::new(RedisTarget::server("cache", 6379)).unwrap();
        let error =
            redis::make_extension_error("NOAUTH".into(), Some("Authentication required.".into()));
        assert!(is_lost(&error));
        assert!(link.explain(&error).ends_with("set REDIS_PASSWORD"));
        let error = redis::make_extension_error("OOM".into(), Some("command not allowed".into()));
        assert!(!is_lost(&error), "{error}");
    }

    #[tokio::test]
    async fn a_refused_connect_is_known() {
        let link = Link::new(RedisTarget::server("127.0.0.1", 1)).unwrap();
        let answer: Result<String, _> = link.query(&redis::cmd("PING")).await;
        assert!(answer.is_err());
        let health = link.health().borrow().clone();
        assert!(matches!(health, Health::Down { why, .. } if why.contains("127.0.0.1:1")));
    }
}
