//! The one table of settings: it drives reading, the check for unknown keys, and the examples.

use std::fmt::Write as _;
use std::time::Duration;

/// One setting: an environment variable, and in lower case a key of the TOML file.
#[derive(Debug)]
pub(super) struct Setting {
    /// The variable's name.
    pub(super) name: &'static str,
    /// The heading that it stands under in the examples.
    #[cfg_attr(not(test), expect(dead_code, reason = "the examples are rendered by a test"))]
    pub(super) group: &'static str,
    /// What values it may have.
    pub(super) kind: Kind,
    /// The value when nothing is set, written as the user would.
    pub(super) default: Option<&'static str>,
    /// What it does and why one would change it.
    #[cfg_attr(not(test), expect(dead_code, reason = "the examples are rendered by a test"))]
    pub(super) help: &'static str,
}

/// What values a setting may have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A whole number, both ends included.
    Number(u64, u64),
    /// A time span with a unit, both ends included.
    Span(Duration, Duration),
    /// A time span as above, or `off`.
    SpanOrOff(Duration, Duration),
    /// Yes or no.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Text, in the words that say which.
    Text(&'static str),
    /// Text that is never shown, and that can be given as a file.
    Secret(&'static str),
}

impl Setting {
    /// Whether the value must never be shown.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret(_))
    }

    /// The variable that names a file with the value.
    pub(super) fn file_variant(&self) -> Option<String> {
        self.is_secret().then(|| format!("{}_FILE", self.name))
    }

    /// The allowed values, in words.
    pub(super) fn allowed(&self) -> String {
        match self.kind {
            Kind::Number(min, u64::MAX) => format!("a whole number, {min} or more"),
            Kind::Number(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Span(min, max) => span(min, max),
            Kind::SpanOrOff(min, max) => format!("{}, or off", span(min, max)),
            Kind::Flag => "true or false".to_owned(),
            Kind::OneOf(words) => words.join(" or "),
            Kind::Text(allowed) | Kind::Secret(allowed) => allowed.to_owned(),
        }
    }
}

fn span(min: Duration, max: Duration) -> String {
    format!(
        "a time span with a unit such as 15s, 10m or 1h, from {} to {}",
        humantime::format_duration(min),
        humantime::format_duration(max)
    )
}

/// The setting that names the TOML file, which therefore cannot hold it.
pub(super) fn in_toml(setting: &Setting) -> bool {
    setting.name != REFRESHD_CONFIG.name
}

/// The name in `known` that `word` is most likely a misspelling of, ignoring case.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .map(|name| (edits(&word, &name.to_lowercase()), name))
        .min()
        .filter(|(edits, name)| edits * 2 <= name.len())
        .map(|(_, name)| name)
}

/// How many characters must be put in, left out or changed to turn one word into the other.
pub(super) fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        let mut next = vec![left];
        for (b, above) in to.chars().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(a != b)).min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// Settings as a list for messages: `REDIS_HOST, REDIS_PORT and REDIS_DB`.
pub(super) fn listed(names: &[&str]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let joint = match index {
            0 => "",
            _ if index + 1 == names.len() => " and ",
            _ => ", ",
        };
        // Writing to a String cannot fail.
        write!(text, "{joint}{name}").unwrap_or_default();
    }
    text
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const TENTH: Duration = Duration::from_millis(100);
const HOUR: Duration = seconds(3_600);
const DAY: Duration = seconds(86_400);

macro_rules! settings {
    ($($group:literal { $($name:ident = $kind:expr, $default:expr, $help:literal;)* })*) => {
        $($(
            pub(super) static $name: Setting = Setting {
                name: stringify!($name),
                group: $group,
                kind: $kind,
                default: $default,
                help: $help,
            };
        )*)*

        /// Every setting, in the order of the examples.
        pub(super) static ALL: &[&Setting] = &[$($(&$name),*),*];
    };
}

settings! {
    "Redis: the queue" {
        REDIS_HOST = Kind::Text("a host name or an address, without a port"), Some("localhost"),
            "The server's host, as in the application that this serves. Redis 6.2 or later.";
        REDIS_PORT = Kind::Number(1, 65_535), Some("6379"),
            "The server's port.";
        REDIS_USERNAME = Kind::Text("a user name"), None,
            "The ACL user; none means the default user.";
        REDIS_PASSWORD = Kind::Secret("a password"), None,
            "The password, when the server asks for one.";
        REDIS_DB = Kind::Number(0, 65_535), Some("0"),
            "The number of the database.";
        REDIS_URL = Kind::Secret("redis://user:password@host:port/db, rediss:// for TLS, or \
            redis+sentinel://host1:port,host2:port/master/db; characters such as @ : / # % in a \
            user name or password must be percent-encoded"), None,
            "Overrides all of the above. For TLS (rediss://) and for Sentinel, whose hosts have \
            port 26379 when none is given.";
        REDIS_KEY_PREFIX = Kind::Text("1 to 64 letters, digits or any of . _ - :"), Some("refreshd"),
            "All keys begin with it and a short hash of MongoDB's database and collection, so that \
            staging and production on one Redis never take each other's jobs.";
    }
    "BullMQ: the application's queued posts and requests" {
        BULLMQ_PREFIX = Kind::Text("1 to 64 letters, digits or any of . _ - : { }"), Some("bull"),
            "What the keys of the application's BullMQ queues begin with, on the same Redis.";
        BULLMQ_POST_QUEUES = Kind::Text("up to 16 names of queues, separated by commas, each of letters, digits or \
            any of . _ - { }, or off"), Some("posts"),
            "Queues whose waiting jobs carry copies of tokens: after every refresh they are given the \
            new ones. off when the application reads its tokens when it posts.";
        BULLMQ_REFRESH_QUEUE = Kind::Text("the name of a queue of letters, digits or any of . _ - { }, or off"), Some("off"),
            "The queue in which the application asks for refreshes (token-refreshes), to be served from here. Off \
            until `refreshd adopt` was run: with two kinds of workers on one queue, BullMQ splits its jobs at random.";
        BULLMQ_OTHER_QUEUE = Kind::Text("the name of another queue of letters, digits or any of . _ - { }, or off"), None,
            "Where jobs of that queue are moved, unchanged, that concern other platforms, for the worker that serves \
            those. Without it they fail with unsupported_platform.";
    }
    "MongoDB: the accounts" {
        MONGODB_URI = Kind::Secret("mongodb://user:password@host:port/database or mongodb+srv://…; \
            characters such as @ : / # % in a user name or password must be percent-encoded"), None,
            "Required. The connection string, as in the application that this serves; the database \
            is the one in its path.";
        MONGO_DB = Kind::Text("a database name of at most 63 bytes without / \\ . \" $ or spaces"), None,
            "The database when MONGODB_URI names none; without either it is test, as in mongoose.";
        ACCOUNTS_COLLECTION = Kind::Text("a collection name without $, and none of MongoDB's own (system.…)"),
            Some("socialaccounts"),
            "The collection that holds the accounts.";
    }
    "Bluesky: the calls" {
        BLUESKY_SERVICE_URL = Kind::Text("https://host or https://host:port, without a path"),
            Some("https://bsky.social"),
            "The server for accounts whose refresh token names no other.";
        PDS_ROUTING = Kind::OneOf(&["audience", "fixed"]), Some("audience"),
            "audience: the refresh token's aud names the server, which serves people who host \
            themselves. fixed: every call goes to BLUESKY_SERVICE_URL.";
        PDS_ALLOW_PRIVATE = Kind::Flag, Some("false"),
            "Whether a server named by a token may be plain http or have a private address. Only \
            for development: it lets whoever writes a token choose a host inside your network.";
        PDS_RATE_LIMIT = Kind::Text("calls per time such as 8/s, 400/m or 2400/5m, at least 6/m, or off"), Some("8/s"),
            "Calls per server and egress address, shared by all instances behind it; off for no \
            limit of our own. What a server says of its limits always wins. 8/s stays below \
            Bluesky's 3000 per 5 minutes and address.";
        EGRESS_ID = Kind::Text("1 to 128 letters, digits or any of . _ - :"), None,
            "Instances with the same value share one budget per server; the default is the host \
            name. Two containers behind one NAT must be given the same value.";
        PDS_TIMEOUT = Kind::Span(TENTH, seconds(300)), Some("15s"),
            "How long one call may take.";
        VERDICT_CONFIRM_AFTER = Kind::Span(seconds(0), seconds(604_800)), Some("10m"),
            "How long after a first permanent answer (revoked, expired, …) about an account that \
            was kept alive a second one is believed; 0s believes the first.";
    }
    "Schedule and workers" {
        REFRESH_CRON = Kind::Text("a crontab pattern of 5 fields, 6 with seconds in front, or off"),
            Some("0 0 * * 0"),
            "When all accounts are refreshed: minute, hour, day of month, month, day of week; off \
            for never.";
        REFRESH_CRON_TZ = Kind::Text("an IANA time zone such as UTC or Europe/Berlin"), Some("UTC"),
            "The zone of that pattern.";
        REFRESH_LIMIT = Kind::Number(0, u64::MAX), Some("0"),
            "Stop after this many scheduled runs; 0 for never.";
        KEEP_FRESH = Kind::Flag, Some("true"),
            "Whether every account is refreshed before its access token expires. Without it \
            accounts are refreshed by the pattern above and on request only.";
        REFRESH_LEAD = Kind::Text("a share of an access token's life from 5% to 75%, or a time span with a unit \
            from 6m to 24h"), Some("25%"),
            "How long before its access token expires an account is refreshed. The application \
            takes a token with less than 10 minutes left for expired.";
        WORKER_CONCURRENCY = Kind::Number(1, 4_096), Some("64"),
            "Calls in flight in this instance.";
    }
    "Admin API and health" {
        ADMIN_LISTEN = Kind::Text("address:port such as 127.0.0.1:4040 or [::]:4040, or off"),
            Some("127.0.0.1:4040"),
            "Where the admin API and the health checks listen; off for not at all. It speaks plain \
            HTTP: put TLS in front before leaving the machine.";
        ADMIN_TOKEN = Kind::Secret("at least 32 visible ASCII characters, such as the output of \
            `openssl rand -hex 32`"), None,
            "The bearer token of the admin API, which answers 503 without one.";
    }
    "State" {
        STATE_DIR = Kind::Text("the path of a folder"), None,
            "The folder for what must outlive the process; the default is the environment's \
            STATE_DIRECTORY, which systemd sets, else ./state. Each instance needs one of its own, \
            on a disk that survives a restart.";
    }
    "Life cycle" {
        STARTUP_TIMEOUT = Kind::Span(TENTH, DAY), Some("30s"),
            "How long the start waits for Redis and MongoDB before it exits with status 69.";
        REDIS_DOWN_EXIT_AFTER = Kind::SpanOrOff(seconds(1), DAY), Some("60s"),
            "How long Redis may be lost before the daemon exits with status 75, so that its \
            supervisor restarts it; off: it stays up, and while Redis is away it refreshes what is \
            due straight from MongoDB, each instance at half of PDS_RATE_LIMIT.";
        SHUTDOWN_TIMEOUT = Kind::Span(seconds(0), HOUR), Some("30s"),
            "How long SIGTERM waits for calls in flight. The supervisor must wait longer.";
    }
    "Logs" {
        LOG_FORMAT = Kind::OneOf(&["auto", "text", "json"]), Some("auto"),
            "auto: text on a terminal, JSON (one object a line) otherwise.";
        RUST_LOG = Kind::Text("a level (error, warn, info, debug, trace, off), or directives such \
            as info,refreshd::pds=debug"), Some("info"),
            "What is logged.";
    }
    "This configuration" {
        REFRESHD_CONFIG = Kind::Text("the path of a TOML file"), Some("config/refreshd.toml"),
            "The file that is read after the environment and .env; the default may be missing, a \
            named one may not.";
    }
}
