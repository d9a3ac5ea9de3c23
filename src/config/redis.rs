//! The Redis section: where the queue lives, from single variables or from one address.

use std::fmt;

use redis::{ConnectionAddr, IntoConnectionInfo as _};
use secrecy::SecretString;

use super::reader::{Reader, key_part};
use super::settings;

const SENTINEL_PORT: u16 = 26_379;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Redis {
    /// The server, or those that know it.
    pub servers: RedisServers,
    /// The ACL user, when it is not the default one.
    pub username: Option<String>,
    /// The password, when one is needed.
    pub password: Option<SecretString>,
    /// The number of the database.
    pub db: i64,
    /// What all keys begin with, inside their hash tag's braces; it holds none itself.
    pub key_prefix: String,
}

/// The server, or those that know it. Its `Display` is for people and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    One {
        /// Name or address; an IPv6 address stands without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether to speak TLS.
        tls: bool,
    },
    /// Sentinels, which say where the master is.
    Sentinel {
        /// Hosts and ports; never empty.
        sentinels: Vec<(String, u16)>,
        /// The name under which they know the master.
        master: String,
    },
}

impl fmt::Display for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Sentinel { sentinels, master } => {
                write!(f, "master {master} of the sentinels")?;
                sentinels.iter().try_for_each(|(host, port)| write!(f, " {host}:{port}"))
            }
        }
    }
}

/// What an address says.
struct Address {
    servers: RedisServers,
    username: Option<String>,
    password: Option<SecretString>,
    db: i64,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Redis> {
    let host = reader.fitting(&settings::REDIS_HOST, host_name);
    let port = reader.number(&settings::REDIS_PORT);
    let username = reader.fitting(&settings::REDIS_USERNAME, |text| Some(text.to_owned()));
    let password = reader.secret(&settings::REDIS_PASSWORD, |_text| true);
    let db = reader.number::<u32>(&settings::REDIS_DB);
    let key_prefix = reader.fitting(&settings::REDIS_KEY_PREFIX, |text| key_part(text, 64));
    let address = if reader.is_given(&settings::REDIS_URL) {
        note_overridden(reader);
        reader.fitting(&settings::REDIS_URL, address)?
    } else {
        let servers = RedisServers::One { host: host?, port: port?, tls: false };
        Address { servers, username, password, db: db?.into() }
    };
    let Address { servers, username, password, db } = address;
    Some(Redis { servers, username, password, db, key_prefix: key_prefix? })
}

fn note_overridden(reader: &mut Reader<'_>) {
    let overridden: Vec<&str> = [
        &settings::REDIS_HOST,
        &settings::REDIS_PORT,
        &settings::REDIS_USERNAME,
        &settings::REDIS_PASSWORD,
        &settings::REDIS_DB,
    ]
    .into_iter()
    .filter(|setting| reader.is_given(setting))
    .map(|setting| setting.name)
    .collect();
    if !overridden.is_empty() {
        reader.note(format!("REDIS_URL overrides {}", settings::listed(&overridden)));
    }
}

fn host_name(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if bare.contains(':') {
        return bare.parse::<std::net::Ipv6Addr>().ok().map(|address| address.to_string());
    }
    let good = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    bare.chars().all(good).then(|| bare.to_owned())
}

fn address(text: &str) -> Option<Address> {
    match text.split_once("://")? {
        ("redis" | "rediss", _) => single(text),
        ("redis+sentinel", rest) => sentinel(rest),
        _ => None,
    }
}

/// One server. The redis crate reads the address, so that it means here what it means there;
/// a fragment could switch the check of certificates off.
fn single(text: &str) -> Option<Address> {
    if text.contains(['#', '?']) {
        return None;
    }
    let info = text.into_connection_info().ok()?;
    let servers = match info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            RedisServers::One { host: host.clone(), port: *port, tls: false }
        }
        ConnectionAddr::TcpTls { host, port, .. } => {
            RedisServers::One { host: host.clone(), port: *port, tls: true }
        }
        _ => return None,
    };
    let settings = info.redis_settings();
    let db = Some(settings.db()).filter(|db| (0..=65_535).contains(db))?;
    Some(Address {
        servers,
        username: settings.username().map(str::to_owned),
        password: settings.password().map(Into::into),
        db,
    })
}

/// `[user:password@]host1[:port],host2[:port]/master[/db]`.
fn sentinel(rest: &str) -> Option<Address> {
    let (authority, path) = rest.split_once('/')?;
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let at = if user.is_empty() { "" } else { "@" };
    let (master, db) = path.split_once('/').unwrap_or((path, ""));
    if master.is_empty() || master.contains(['?', '#', ',', ' ']) {
        return None;
    }
    let mut sentinels = Vec::new();
    let mut last = None;
    for host in hosts.split(',') {
        // Each by itself is an address of one server; the port differs when none is given.
        let one = single(&format!("redis://{user}{at}{host}/{db}"))?;
        let RedisServers::One { host: name, port, .. } = &one.servers else { return None };
        let port = if has_port(host) { *port } else { SENTINEL_PORT };
        sentinels.push((name.clone(), port));
        last = Some(one);
    }
    let Address { username, password, db, .. } = last?;
    let servers = RedisServers::Sentinel { sentinels, master: master.to_owned() };
    Some(Address { servers, username, password, db })
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn told(text: &str) -> Option<String> {
        let Address { servers, username, password, db } = address(text)?;
        let tls = matches!(servers, RedisServers::One { tls: true, .. });
        let password = password.map(|password| password.expose_secret().to_owned());
        let (user, password) = (username.unwrap_or_default(), password.unwrap_or_default());
        Some(format!("{user}:{password}@{servers}/{db}{}", if tls { " tls" } else { "" }))
    }

    #[test]
    fn addresses() {
        for (text, meaning) in [
            ("redis://localhost", ":@localhost:6379/0"),
            ("redis://localhost:7000/3", ":@localhost:7000/3"),
            ("redis://:p%40ss@h", ":p@ss@h:6379/0"),
            ("rediss://me:p@h:1/", "me:p@h:1/0 tls"),
            ("redis://[::1]:7000", ":@::1:7000/0"),
            (
                "redis+sentinel://a,b/mymaster",
                ":@master mymaster of the sentinels a:26379 b:26379/0",
            ),
            (
                "redis+sentinel://me:p%2Cq@a:1,[::1]/m/2",
                "me:p,q@master m of the sentinels a:1 ::1:26379/2",
            ),
        ] {
            assert_eq!(told(text).as_deref(), Some(meaning), "{text}");
        }
    }

    #[test]
    fn refused_addresses() {
        for bad in [
            "localhost:6379",
            "http://localhost",
            "unix:///run/redis.sock",
            "redis://",
            "redis://h:99999",
            "redis://h/one",
            "redis://h/-1",
            "rediss://h#insecure",
            "redis://h?db=1",
            "redis+sentinel://a,b",
            "redis+sentinel://a,b/",
            "redis+sentinel://a,,b/m",
            "redis+sentinel:///m",
            "redis+sentinel://a/m/x",
        ] {
            assert_eq!(told(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts() {
        for (text, host) in [
            ("a-b.example", "a-b.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
        ] {
            assert_eq!(host_name(text).as_deref(), Some(host));
        }
        for bad in ["a:6379", "redis://a", "a b", "a/b", "u@a"] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
    }
}
