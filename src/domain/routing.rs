//! Which server refreshes a session: the refresh token's own `aud` says it.

use std::borrow::Cow;

use url::Host;

use super::identity::ServiceUrl;

/// Where calls go (`PDS_ROUTING`, `BLUESKY_SERVICE_URL`, `PDS_ALLOW_PRIVATE`).
#[derive(Debug, Clone)]
pub struct Routing {
    home: ServiceUrl,
    home_host: Option<Host<String>>,
    by_audience: bool,
    allow_private: bool,
}

impl Routing {
    /// `home` is `BLUESKY_SERVICE_URL`; with `by_audience` false every call goes there.
    pub fn new(home: ServiceUrl, by_audience: bool, allow_private: bool) -> Self {
        let home_host = home.host().map(|host| host.to_owned());
        Self { home, home_host, by_audience, allow_private }
    }

    /// `BLUESKY_SERVICE_URL`, trusted as given.
    pub fn home(&self) -> &ServiceUrl {
        &self.home
    }

    /// The server that a refresh token's `aud` names: `did:web:host` is `https://host`, while
    /// bsky.social, its own PDS hosts under bsky.network, and `home`'s host are `home` itself.
    /// An audience that names no web host is served by `home`, too. A loopback host, which only
    /// `PDS_ALLOW_PRIVATE` lets be called, is spoken to without TLS, as development servers are.
    pub fn service(&self, audience: &str) -> ServiceUrl {
        if !self.by_audience {
            return self.home.clone();
        }
        audience
            .strip_prefix("did:web:")
            .and_then(|host| self.named(host))
            .unwrap_or_else(|| self.home.clone())
    }

    fn named(&self, did_web: &str) -> Option<ServiceUrl> {
        // A further colon would be a path (did:web method, section 3.2); a port's is escaped.
        if did_web.contains(':') {
            return None;
        }
        let authority = if did_web.contains('%') {
            Cow::Owned(did_web.replace("%3A", ":").replace("%3a", ":"))
        } else {
            Cow::Borrowed(did_web)
        };
        let secure: ServiceUrl = format!("https://{authority}").parse().ok()?;
        let host = secure.host()?;
        let has_port = authority.contains(':');
        if is_bluesky(&host)
            || (!has_port && self.home_host.as_ref().is_some_and(|home| *home == host))
        {
            return None;
        }
        if self.allow_private && is_loopback(&host) {
            return format!("http://{authority}").parse().ok();
        }
        Some(secure)
    }
}

fn is_bluesky(host: &Host<&str>) -> bool {
    matches!(host, Host::Domain(name) if *name == "bsky.social" || name.ends_with(".bsky.network"))
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(home: &str, allow_private: bool) -> Routing {
        Routing::new(home.parse().unwrap(), true, allow_private)
    }

    #[test]
    fn the_audience_names_the_server() {
        let home = routing("https://bsky.social", false);
        for (audience, service) in [
            ("did:web:bsky.social", "https://bsky.social"),
            ("did:web:morel.us-east.host.bsky.network", "https://bsky.social"),
            ("did:web:pds.example.com", "https://pds.example.com"),
            ("did:web:PDS.example.com", "https://pds.example.com"),
            ("did:web:pds.example.com%3A8443", "https://pds.example.com:8443"),
            ("did:web:pds.example.com:users:bob", "https://bsky.social"),
            ("did:web:evil.com@bsky.social", "https://bsky.social"),
            ("did:web:evil.com/path", "https://bsky.social"),
            ("did:web:evilbsky.network", "https://evilbsky.network"),
            ("did:plc:abc", "https://bsky.social"),
            ("", "https://bsky.social"),
            ("did:web:localhost%3A1", "https://localhost:1"),
        ] {
            assert_eq!(home.service(audience).as_str(), service, "{audience}");
        }
    }

    #[test]
    fn a_local_server_says_its_host_without_a_port() {
        let home = routing("http://localhost:2583", true);
        assert_eq!(home.service("did:web:localhost").as_str(), "http://localhost:2583");
        assert_eq!(home.service("did:web:127.0.0.1%3A9000").as_str(), "http://127.0.0.1:9000");
    }

    #[test]
    fn fixed_routing_never_leaves_home() {
        let fixed = Routing::new("https://a.example".parse().unwrap(), false, false);
        assert_eq!(fixed.service("did:web:pds.example.com").as_str(), "https://a.example");
    }
}
