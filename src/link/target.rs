//! Where Redis is: a server, or sentinels that know the server.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use secrecy::{ExposeSecret as _, SecretString};

use super::LinkError;

/// Redis's own port.
pub const DEFAULT_PORT: u16 = 6379;

/// The sentinels' own port.
pub const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// Where Redis is and who we are there.
#[derive(Debug, Clone)]
pub struct RedisTarget {
    /// The server, or those who know it.
    pub nodes: Nodes,
    /// A user of Redis's access lists; `None`: the default user.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<SecretString>,
    /// The number of the database.
    pub db: i64,
}

/// A server, or sentinels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// One server.
    Server {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Whether to speak TLS.
        tls: bool,
    },
    /// Sentinels, asked in turn at every connect.
    Sentinels {
        /// Name or address, and port.
        hosts: Vec<(String, u16)>,
        /// The name under which they watch the server.
        master: String,
    },
}

impl RedisTarget {
    /// A server without TLS.
    pub fn server(host: impl Into<String>, port: u16) -> Self {
        let nodes = Nodes::Server { host: host.into(), port, tls: false };
        Self { nodes, username: None, password: None, db: 0 }
    }

    /// From `redis://`, `rediss://` (TLS) or `redis+sentinel://h1:p1,h2:p2/master/0`; user and
    /// password stand before an `@`. The error never says the password.
    pub fn from_url(url: &str) -> Result<Self, LinkError> {
        match url.split_once("://") {
            Some(("redis" | "rediss", _)) => from_server_url(url),
            Some(("redis+sentinel", rest)) => from_sentinel_url(rest),
            _ => Err(LinkError::Scheme),
        }
    }

    /// Where it is, for people: never with the password.
    pub fn place(&self) -> String {
        match &self.nodes {
            Nodes::Server { host, port, .. } => format!("{host}:{port}"),
            Nodes::Sentinels { hosts, master } => {
                let hosts: Vec<_> =
                    hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
                format!("{master} (by the sentinels {})", hosts.join(", "))
            }
        }
    }

    pub(super) fn connection_info(
        &self,
        host: &str,
        port: u16,
        tls: bool,
    ) -> Result<ConnectionInfo, LinkError> {
        let addr = if tls {
            ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host.to_owned(), port)
        };
        let mut settings = RedisConnectionInfo::default().set_db(self.db);
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.expose_secret());
        }
        let info = addr.into_connection_info().map_err(|_source| LinkError::Url)?;
        Ok(info.set_redis_settings(settings))
    }
}

fn from_server_url(url: &str) -> Result<RedisTarget, LinkError> {
    let info = url.into_connection_info().map_err(|_may_quote_it| LinkError::Url)?;
    let nodes = match info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            Nodes::Server { host: host.clone(), port: *port, tls: false }
        }
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            Nodes::Server { host: host.clone(), port: *port, tls: true }
        }
        _ => return Err(LinkError::Url),
    };
    let settings = info.redis_settings();
    Ok(RedisTarget {
        nodes,
        username: settings.username().filter(|it| !it.is_empty()).map(str::to_owned),
        password: settings.password().map(SecretString::from),
        db: settings.db(),
    })
}

fn from_sentinel_url(rest: &str) -> Result<RedisTarget, LinkError> {
    let (authority, path) = rest.split_once('/').ok_or(LinkError::Sentinel)?;
    let (who, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (master, db) = path.split_once('/').unwrap_or((path, "0"));
    let db: u16 = db.parse().map_err(|_number| LinkError::Sentinel)?;
    if master.is_empty() || master.contains(['?', '#', ' ']) {
        return Err(LinkError::Sentinel);
    }
    let hosts = hosts.split(',').map(host_and_port).collect::<Option<Vec<_>>>();
    // The crate's own parser decodes what stands before the `@`.
    let login = from_server_url(&format!(
        "redis://{who}{}localhost",
        if who.is_empty() { "" } else { "@" }
    ))?;
    let nodes =
        Nodes::Sentinels { hosts: hosts.ok_or(LinkError::Sentinel)?, master: master.to_owned() };
    Ok(RedisTarget { nodes, db: db.into(), ..login })
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (text, DEFAULT_SENTINEL_PORT),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_with_a_reason() {
        let place = |url| RedisTarget::from_url(url).map(|it| (it.place(), it.db));
        assert_eq!(place("redis://localhost").unwrap(), ("localhost:6379".into(), 0));
        assert_eq!(place("redis://:pw@10.0.0.1:7000/3").unwrap(), ("10.0.0.1:7000".into(), 3));
        assert_eq!(
            place("redis+sentinel://u:p@s1:1,s2/mymaster/2").unwrap(),
            ("mymaster (by the sentinels s1:1, s2:26379)".into(), 2)
        );
        let tls = RedisTarget::from_url("rediss://cache.example").unwrap();
        assert!(matches!(tls.nodes, Nodes::Server { tls: true, .. }));
        for bad in [
            "localhost:6379",
            "http://localhost",
            "redis://:pw@localhost:99999",
            "rediss://h/#insecure",
            "redis+sentinel://h",
            "redis+sentinel://h/",
            "redis+sentinel://h:x/m",
            "redis+sentinel://h/m?db=1",
            "redis+sentinel://h/m/x",
            "redis+sentinel://h/m/1/2",
        ] {
            let error = place(bad).expect_err(bad).to_string();
            assert!(error.contains("REDIS_URL") && !error.contains("pw"), "{error}");
        }
    }

    #[test]
    fn a_password_is_decoded_and_never_shown() {
        for url in ["redis://me:hun%2Fter2@h", "redis+sentinel://me:hun%2Fter2@h:1/m"] {
            let target = RedisTarget::from_url(url).unwrap();
            assert_eq!(target.username.as_deref(), Some("me"));
            assert_eq!(target.password.as_ref().unwrap().expose_secret(), "hun/ter2");
            assert!(!format!("{target:?} {}", target.place()).contains("ter2"));
        }
    }
}
