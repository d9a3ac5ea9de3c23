//! Whole configurations: precedence, every bad value, all problems at once, and no secret shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use secrecy::ExposeSecret as _;

use chrono_tz::Tz;

use super::*;
use crate::link::Nodes;

const URI: &str = "mongodb://app:hunter2@db.example:27017/shop";

pub(super) fn sources(environment: &[(&str, &str)], directory: &Path) -> Sources {
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources::read(environment, directory, Some("host-1".to_owned()))
}

/// With no files.
fn load(environment: &[(&str, &str)]) -> Result<Config, String> {
    load_in(environment, folder(&[]).path())
}

fn load_in(environment: &[(&str, &str)], directory: &Path) -> Result<Config, String> {
    Config::load(&sources(environment, directory)).map_err(|errors| errors.to_string())
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

#[test]
fn the_defaults() {
    let config = load(&[("MONGODB_URI", URI)]).unwrap();
    let one = Nodes::Server { host: "localhost".to_owned(), port: 6_379, tls: false };
    assert_eq!(config.redis.target.nodes, one);
    assert_eq!((config.redis.target.db, config.redis.key_prefix.as_str()), (0, "refreshd"));
    assert!(config.redis.target.username.is_none() && config.redis.target.password.is_none());
    assert_eq!(config.mongo.uri.expose_secret(), URI);
    assert_eq!(config.mongo.hosts, "db.example:27017");
    assert_eq!(
        (config.mongo.database.as_str(), config.mongo.collection.as_str()),
        ("shop", "socialaccounts")
    );
}

#[test]
fn the_defaults_of_the_calls_and_the_life_cycle() {
    let config = load(&[("MONGODB_URI", URI)]).unwrap();
    assert_eq!(config.pds.home.as_str(), "https://bsky.social");
    let posts = Posts { prefix: "bull".to_owned(), queues: vec!["posts".to_owned()] };
    assert_eq!(config.posts, posts);
    assert!(config.pds.by_audience && !config.pds.allow_private);
    assert_eq!(config.pds.per_second, Some(8.0));
    assert_eq!(config.pds.egress_id, "host-1");
    assert_eq!(config.pds.timeout, Duration::from_secs(15));
    assert_eq!(config.pds.confirm_after, Duration::from_mins(10));
    let cron = Pattern::parse("0 0 * * 0", Tz::UTC).unwrap();
    let lead = Some(Lead::Share(0.25));
    assert_eq!(config.schedule, Schedule { cron: Some(cron), limit: None, lead });
    assert_eq!(config.workers, 64);
    assert_eq!(config.admin.listen, Some("127.0.0.1:4040".parse().unwrap()));
    assert!(config.admin.token.is_none());
    let seconds = Duration::from_secs;
    let life = Life {
        startup: seconds(30),
        shutdown: seconds(30),
        redis_down_exit_after: Some(seconds(60)),
    };
    assert_eq!(config.life, life);
    assert_eq!(config.log, Log { format: LogFormat::Auto, filter: "info".to_owned() });
    assert!(config.notes.is_empty(), "{:?}", config.notes);
}

#[test]
fn the_environment_goes_before_dotenv_before_the_file_before_the_default() {
    let folder = folder(&[
        (
            ".env",
            "\u{feff}# ours\nREDIS_HOST=dotenv\nREDIS_PORT=2\nexport REFRESH_CRON='1 2 * * *' # nightly\nOTHER=x",
        ),
        (
            "config/refreshd.toml",
            "redis_host = \"file\"\nredis_port = 3\nredis_db = 3\npds_allow_private = true\nworker_concurrency = \"7\"\n",
        ),
    ]);
    let given = [("MONGODB_URI", URI), ("REDIS_HOST", "environment"), ("REDIS_DB", " ")];
    let config = load_in(&given, folder.path()).unwrap();
    let one = Nodes::Server { host: "environment".to_owned(), port: 2, tls: false };
    assert_eq!(config.redis.target.nodes, one);
    // An empty value counts as not set.
    assert_eq!(config.redis.target.db, 3);
    assert!(config.pds.allow_private);
    assert_eq!(config.workers, 7);
    assert_eq!(config.schedule.cron.unwrap().pattern(), "1 2 * * *");
    assert_eq!(config.redis.key_prefix, "refreshd");
}

#[test]
fn every_bad_value_names_the_key_the_value_what_is_allowed_and_its_origin() {
    let bad = [
        ("REDIS_HOST", "localhost:6379", "a host name"),
        ("REDIS_PORT", "0", "from 1 to 65535"),
        ("REDIS_PORT", "65536", "from 1 to 65535"),
        ("REDIS_DB", "-1", "from 0 to 65535"),
        ("REDIS_URL", "http://h", "redis+sentinel://"),
        ("REDIS_KEY_PREFIX", "a{b}", "letters"),
        ("BULLMQ_PREFIX", "a b", "64 letters"),
        ("BULLMQ_POST_QUEUES", "posts,", "separated by commas"),
        ("BULLMQ_POST_QUEUES", "bull:posts", "separated by commas"),
        ("BULLMQ_POST_QUEUES", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", "up to 16"),
        ("BULLMQ_REFRESH_QUEUE", "a,b", "the name of a queue"),
        ("BULLMQ_OTHER_QUEUE", "a:b", "the name of another queue"),
        ("MONGODB_URI", "postgres://h", "mongodb+srv://"),
        ("MONGODB_URI", "mongodb://u:p@ss@h", "percent-encoded"),
        ("MONGO_DB", "a.b", "63 bytes"),
        ("ACCOUNTS_COLLECTION", "system.users", "system."),
        ("BLUESKY_SERVICE_URL", "bsky.social", "https://host"),
        ("PDS_ROUTING", "aud", "audience or fixed"),
        ("PDS_ALLOW_PRIVATE", "maybe", "true or false"),
        ("KEEP_FRESH", "always", "true or false"),
        ("REFRESH_LEAD", "5m", "from 5% to 75%"),
        ("REFRESH_LEAD", "80%", "6m to 24h"),
        ("PDS_RATE_LIMIT", "8", "8/s"),
        ("EGRESS_ID", "a b", "128 letters"),
        ("PDS_TIMEOUT", "15", "15s"),
        ("PDS_TIMEOUT", "0s", "from 100ms to 5m"),
        ("VERDICT_CONFIRM_AFTER", "0", "0s"),
        ("VERDICT_CONFIRM_AFTER", "8d", "from 0s to 7days"),
        ("REFRESH_CRON", "daily", "5 fields"),
        ("REFRESH_CRON_TZ", "Berlin", "Europe/Berlin"),
        ("REFRESH_LIMIT", "1.5", "0 or more"),
        ("WORKER_CONCURRENCY", "0", "from 1 to 4096"),
        ("WORKER_CONCURRENCY", "4097", "from 1 to 4096"),
        ("ADMIN_LISTEN", "4040", "127.0.0.1:4040"),
        ("ADMIN_TOKEN", "0123456789012345678901234567890", "32 visible"),
        ("ADMIN_TOKEN", "0123456789 123456789 0123456789 12", "32 visible"),
        ("STARTUP_TIMEOUT", "soon", "from 100ms to 1day"),
        ("REDIS_DOWN_EXIT_AFTER", "500ms", "from 1s to 1day, or off"),
        ("SHUTDOWN_TIMEOUT", "2h", "from 0s to 1h"),
        ("LOG_FORMAT", "xml", "auto or text or json"),
        ("RUST_LOG", "info,refreshd=loud", "a level"),
        ("RUST_LOG", "inf", "did you mean info?"),
        ("REFRESHD_CONFIG", "no-such.toml", "cannot be read: No such file"),
    ];
    for (name, value, allowed) in bad {
        let mut given = BTreeMap::from([("MONGODB_URI", URI)]);
        given.insert(name, value);
        let given: Vec<_> = given.into_iter().collect();
        let text = load(&given).unwrap_err();
        let secret =
            settings::ALL.iter().any(|setting| setting.name == name && setting.is_secret());
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(text.contains(value), !secret, "{name}={value}: {text}");
        for part in [name, allowed, "from environment"] {
            assert!(text.contains(part), "{name}={value}, {part}: {text}");
        }
    }
    let free = ["REDIS_USERNAME", "REDIS_PASSWORD", "STATE_DIR"];
    for setting in settings::ALL.iter().filter(|setting| !free.contains(&setting.name)) {
        assert!(bad.iter().any(|(name, ..)| *name == setting.name), "{} has no row", setting.name);
    }
}

#[test]
fn values_with_a_meaning_of_their_own() {
    let config = load(&[
        ("MONGODB_URI", "mongodb+srv://cluster.example"),
        ("PDS_ROUTING", "Fixed"),
        ("PDS_RATE_LIMIT", "OFF"),
        ("REFRESH_CRON", "off"),
        ("REFRESH_CRON_TZ", "Europe/Berlin"),
        ("REFRESH_LIMIT", "52"),
        ("ADMIN_LISTEN", "off"),
        ("ADMIN_TOKEN", "0123456789abcdef0123456789abcdef"),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "warn,refreshd::pds=debug"),
        ("SHUTDOWN_TIMEOUT", "1m 30s"),
        ("REDIS_DOWN_EXIT_AFTER", "Off"),
        ("EGRESS_ID", "nat-1"),
        ("BLUESKY_SERVICE_URL", "http://pds.example"),
    ])
    .unwrap();
    assert!(!config.pds.by_audience);
    assert_eq!(config.pds.per_second, None);
    assert_eq!(
        config.schedule,
        Schedule { cron: None, limit: Some(52), lead: Some(Lead::Share(0.25)) }
    );
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.life.shutdown, Duration::from_secs(90));
    assert_eq!(config.life.redis_down_exit_after, None);
    assert_eq!(config.pds.egress_id, "nat-1");
    assert_eq!(
        (config.mongo.hosts.as_str(), config.mongo.database.as_str()),
        ("cluster.example", "test")
    );
    let notes = config.notes.join("\n");
    for part in ["using test", "ADMIN_TOKEN has no effect", "plain http"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
}

#[test]
fn queues_of_posts_are_a_list_or_off() {
    let queues = |text| {
        let config = load(&[("MONGODB_URI", URI), ("BULLMQ_POST_QUEUES", text)]).unwrap();
        config.posts.queues
    };
    assert_eq!(queues("posts, later,posts"), ["posts", "later"]);
    assert_eq!(queues("{a}"), ["{a}"]);
    assert_eq!(queues("Off"), Vec::<String>::new());
    let given = [("MONGODB_URI", URI), ("BULLMQ_POST_QUEUES", "off"), ("BULLMQ_PREFIX", "{app}")];
    let notes = load(&given).unwrap().notes.join("\n");
    assert!(notes.contains("BULLMQ_PREFIX has no effect"), "{notes}");
}

#[test]
fn requests_are_served_from_a_queue_of_their_own_or_not_at_all() {
    let given = |refresh, other| {
        load(&[
            ("MONGODB_URI", URI),
            ("BULLMQ_REFRESH_QUEUE", refresh),
            ("BULLMQ_OTHER_QUEUE", other),
        ])
    };
    let name = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    for (refresh, other, queue, others) in [
        ("", "", "", ""),
        ("off", "Off", "", ""),
        ("token-refreshes", "", "token-refreshes", ""),
        ("token-refreshes", "{x}", "token-refreshes", "{x}"),
    ] {
        let requests = Requests { queue: name(queue), other: name(others) };
        assert_eq!(given(refresh, other).unwrap().requests, requests);
    }
    for (refresh, other, says) in [
        ("posts", "", "BULLMQ_REFRESH_QUEUE and BULLMQ_POST_QUEUES both name posts"),
        ("a", "posts", "BULLMQ_OTHER_QUEUE and BULLMQ_POST_QUEUES both name posts"),
        ("a", "a", "BULLMQ_REFRESH_QUEUE and BULLMQ_OTHER_QUEUE both name a"),
    ] {
        let errors = given(refresh, other).unwrap_err();
        assert!(errors.contains(says), "{errors}");
    }
    let notes = given("off", "b").unwrap().notes.join("\n");
    assert!(notes.contains("BULLMQ_OTHER_QUEUE has no effect"), "{notes}");
}

#[test]
fn the_state_is_kept_where_the_user_says_or_the_supervisor_or_here() {
    for (given, expected) in [
        (&[][..], "./state"),
        (&[("STATE_DIRECTORY", "")][..], "./state"),
        (&[("STATE_DIRECTORY", "/var/lib/refreshd")][..], "/var/lib/refreshd"),
        (&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")][..], "/var/lib/a"),
        (&[("STATE_DIRECTORY", "/var/lib/a"), ("STATE_DIR", "mine")][..], "mine"),
    ] {
        let config = load(&[&[("MONGODB_URI", URI)], given].concat()).unwrap();
        assert_eq!(config.state_dir, Path::new(expected), "{given:?}");
    }
}

#[test]
fn an_address_of_redis_overrides_the_single_variables() {
    let config = load(&[
        ("MONGODB_URI", URI),
        ("MONGO_DB", "other"),
        ("REDIS_URL", "rediss://me:s3cret@r.example/2"),
        ("REDIS_HOST", "ignored"),
        ("REDIS_PASSWORD", "ignored"),
    ])
    .unwrap();
    let one = Nodes::Server { host: "r.example".to_owned(), port: 6_379, tls: true };
    assert_eq!(config.redis.target.nodes, one);
    assert_eq!(config.redis.target.password.unwrap().expose_secret(), "s3cret");
    assert_eq!(config.redis.target.db, 2);
    assert_eq!(config.mongo.database, "shop");
    assert_eq!(
        config.notes,
        [
            "REDIS_URL overrides REDIS_HOST and REDIS_PASSWORD",
            "MONGO_DB=other is ignored: MONGODB_URI names the database shop"
        ]
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let folder = folder(&[
        (".env", "PDS_TIMEOUT=fast\nthis is not a line\nREDIS_DB=x\n"),
        (
            "config/refreshd.toml",
            "redis_hots = 'a'\nworker_concurrency = 5000\n[redis]\nport = 1\n",
        ),
    ]);
    let text =
        load_in(&[("REDIS_PORT", "x"), ("ADMIN_TOKEN", "short")], folder.path()).unwrap_err();
    for part in [
        "the configuration has 9 problems:",
        ".env, line 2: ",
        "unknown key \"redis_hots\" (from config/refreshd.toml); did you mean redis_host?",
        "[redis] (from config/refreshd.toml): tables",
        "REDIS_PORT = \"x\" (from environment)",
        "REDIS_DB = \"x\" (from .env)",
        "MONGODB_URI is not set (or MONGODB_URI_FILE=/path)",
        "PDS_TIMEOUT = \"fast\" (from .env)",
        "WORKER_CONCURRENCY = \"5000\" (from config/refreshd.toml)",
        "ADMIN_TOKEN (value not shown, from environment)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn secrets_can_be_files() {
    let folder =
        folder(&[("uri", &format!("{URI}\n")), ("token", "a line\r\n\n"), ("empty", "\n")]);
    let given = [
        ("MONGODB_URI_FILE", "uri"),
        ("REDIS_PASSWORD_FILE", "token"),
        ("REDIS_URL_FILE", "empty"),
    ];
    let config = load_in(&given, folder.path()).unwrap();
    assert_eq!(config.mongo.uri.expose_secret(), URI);
    // One line break goes, and no more.
    assert_eq!(config.redis.target.password.unwrap().expose_secret(), "a line\r\n");
    assert!(config.notes.concat().contains("empty and counts as not set"), "{:?}", config.notes);
}

#[test]
fn a_secret_in_two_places_or_in_no_readable_file_is_a_problem() {
    let folder = folder(&[
        (".env", "MONGODB_URI_FILE=nowhere/uri\nREDIS_PASSWORD=hunter2"),
        ("config/refreshd.toml", "admin_token_file = \"token\""),
        ("token", "too short"),
    ]);
    let text = load_in(&[("REDIS_PASSWORD_FILE", "token")], folder.path()).unwrap_err();
    assert_eq!(text.lines().count(), 4, "{text}");
    for part in [
        "REDIS_PASSWORD (from .env) and REDIS_PASSWORD_FILE (from environment) contradict each other",
        "nowhere/uri\" (from .env): No such file",
        "token (ADMIN_TOKEN_FILE, from config/refreshd.toml)): allowed: at least 32",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("too short"), "{text}");
}

#[test]
fn broken_files_are_named_with_their_line_and_without_their_text() {
    let cases = [
        (".env", "A=1\n\n# B\nREDIS_PASSWORD=two hunter2\n", ".env, line 4: "),
        (".env", "A=1\nB='2\nhunter2=3\n", ".env, line 2: "),
        (".env", "A=1 \nhunter2 ", ".env, line 2: "),
        (
            "config/refreshd.toml",
            "redis_db = 1\nredis_password = hunter2\n",
            "config/refreshd.toml, line 2: ",
        ),
        (
            "config/refreshd.toml",
            "redis_port = 1\nredis_port = 2\n",
            "config/refreshd.toml, line 2: duplicate key",
        ),
        (
            "config/refreshd.toml",
            "redis_host = ['hunter2']\n",
            "redis_host (from config/refreshd.toml): it is array",
        ),
        ("config/refreshd.toml", "refreshd_config = 'a'\n", "unknown key \"refreshd_config\""),
        ("config/refreshd.toml", "x = 'hunter2'\n", "unknown key \"x\""),
    ];
    for (path, content, part) in cases {
        let folder = folder(&[(path, content)]);
        let text = load_in(&[("MONGODB_URI", URI)], folder.path()).unwrap_err();
        assert!(text.contains(part), "{content}: {text}");
        assert!(!text.contains("hunter2") && text.lines().count() == 2, "{text}");
    }
}

#[test]
fn the_file_that_is_named_is_read_instead_of_the_default_one() {
    let folder = folder(&[
        ("mine.toml", "redis_db = 5"),
        ("config/refreshd.toml", "redis_db = 4\nbroken"),
        (".env", "REFRESHD_CONFIG=mine.toml"),
    ]);
    assert_eq!(load_in(&[("MONGODB_URI", URI)], folder.path()).unwrap().redis.target.db, 5);
    fs::remove_file(folder.path().join("mine.toml")).unwrap();
    let text = load_in(&[("MONGODB_URI", URI)], folder.path()).unwrap_err();
    assert!(
        text.contains("mine.toml (named by REFRESHD_CONFIG, from .env) cannot be read"),
        "{text}"
    );
}

#[test]
fn a_python_environment_named_dotenv_is_no_file_of_ours() {
    let folder = folder(&[(".env/bin/python", "")]);
    load_in(&[("MONGODB_URI", URI)], folder.path()).unwrap();
}

#[test]
fn without_a_host_name_the_egress_must_be_named() {
    let given = BTreeMap::from([("MONGODB_URI".to_owned(), URI.to_owned())]);
    let folder = tempfile::tempdir().unwrap();
    let nameless = Sources::read(given, folder.path(), None);
    let text = Config::load(&nameless).unwrap_err().to_string();
    assert!(text.contains("EGRESS_ID is not set"), "{text}");
    assert!(Sources::of_process().host_name().is_some());
}

#[test]
fn no_secret_is_ever_shown() {
    let token = "s3cr3t-0123456789abcdef0123456789abcdef";
    let given = [
        ("MONGODB_URI", URI),
        ("REDIS_PASSWORD", "s3cr3t-p"),
        ("REDIS_URL", "redis://u:s3cr3t-q@h"),
        ("ADMIN_TOKEN", token),
    ];
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(&given, folder.path());
    let config = Config::load(&sources).unwrap();
    let text = format!("{config:?} {config:#?} {sources:?} {}", config.redis.target.place());
    assert!(!text.contains("s3cr3t") && !text.contains("hunter2"), "{text}");
    // One that was put in the wrong place is not shown either.
    let wrong =
        [("REDIS_HOST", "redis://u:s3cr3t@h"), ("BLUESKY_SERVICE_URL", "https://u:s3cr3t@h")];
    let text = load(&wrong).unwrap_err();
    assert!(text.contains("REDIS_HOST = (not shown"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
}
