//! Names of people, accounts and servers, parsed once and valid ever after.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use url::{Host, Url};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Not a DID of the AT Protocol's syntax.
    #[error("not a DID (expected something like did:plc:ewvi7nxzyoun6zhxrhs64oiz)")]
    Did,
    /// Not 24 hexadecimal digits.
    #[error("not an account id (expected the 24 hexadecimal digits of a MongoDB ObjectId)")]
    AccountId,
    /// Not an http(s) origin.
    #[error("not a server address (expected https://host or https://host:port, without a path)")]
    ServiceUrl,
}

/// A decentralised identifier, `did:method:id`, at most 2,048 characters
/// (<https://atproto.com/specs/did>).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Did(Arc<str>);

impl Did {
    /// The longest DID that is accepted, in bytes.
    pub const MAX_BYTES: usize = 2_048;

    /// The DID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Did {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (method, id) = text
            .strip_prefix("did:")
            .and_then(|rest| rest.split_once(':'))
            .ok_or(IdentityError::Did)?;
        let id_byte = |b: u8| b.is_ascii_alphanumeric() || b"._:%-".contains(&b);
        let good = text.len() <= Self::MAX_BYTES
            && !method.is_empty()
            && method.bytes().all(|b| b.is_ascii_lowercase())
            && id.bytes().all(id_byte)
            && id.bytes().last().is_some_and(|b| b != b':' && b != b'%');
        if good { Ok(Self(text.into())) } else { Err(IdentityError::Did) }
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A handle: a domain name of at most 253 characters (<https://atproto.com/specs/handle>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle(String);

impl Handle {
    /// The handle, or `None` if it is not one. `handle.invalid`, which servers answer when a
    /// handle does not resolve, is none either.
    pub fn parse(text: &str) -> Option<Self> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let last_starts_with_letter = text
            .rsplit('.')
            .next()
            .is_some_and(|l| l.starts_with(|c: char| c.is_ascii_alphabetic()));
        let good = text.len() <= 253
            && text.contains('.')
            && text.split('.').all(label)
            && last_starts_with_letter
            && !text.eq_ignore_ascii_case("handle.invalid");
        good.then(|| Self(text.to_owned()))
    }

    /// The handle as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The `_id` of an account's document. One DID can stand in several documents; this is the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId([u8; 12]);

impl AccountId {
    /// From an `ObjectId`'s bytes.
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The `ObjectId`'s bytes.
    pub fn bytes(self) -> [u8; 12] {
        self.0
    }
}

impl FromStr for AccountId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let digits = text.as_bytes();
        if digits.len() != 24 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(IdentityError::AccountId);
        }
        let mut bytes = [0; 12];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_ascii| IdentityError::AccountId)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_hex| IdentityError::AccountId)?;
        }
        Ok(Self(bytes))
    }
}

/// The hexadecimal digit of half a byte.
fn digit(half: u8) -> u8 {
    half + if half < 10 { b'0' } else { b'a' - 10 }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 24];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        f.write_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The origin of a server that refreshes sessions: scheme, host and port, no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceUrl(Arc<str>);

impl ServiceUrl {
    /// The origin as text, such as `https://bsky.social`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host: a name or an address.
    pub fn host(&self) -> Option<Host<&str>> {
        let (_, authority) = self.0.split_once("://")?;
        if let Some((address, _)) = authority.strip_prefix('[').and_then(|it| it.split_once(']')) {
            return address.parse().ok().map(Host::Ipv6);
        }
        let host = authority.split_once(':').map_or(authority, |(host, _port)| host);
        Some(host.parse().map_or(Host::Domain(host), Host::Ipv4))
    }
}

/// Whether a text is an origin as `url` would write it, told without taking it apart: almost every one
/// that is read was written by us. `false` says nothing.
fn is_canonical(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(authority) = rest else { return false };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    // The schemes' own ports, which are left out, and those that begin with a zero are not.
    let good_port = port.is_none_or(|port| {
        !matches!(port, "80" | "443")
            && !port.starts_with(['0', '+'])
            && port.parse::<u16>().is_ok()
    });
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
            && !label.starts_with("xn--")
    };
    // A last label that begins with a digit could be the end of an address in one of its many forms.
    let is_name = host.len() <= 253
        && host.split('.').all(label)
        && host
            .rsplit('.')
            .next()
            .is_some_and(|last| last.starts_with(|c: char| c.is_ascii_lowercase()));
    good_port && (is_name || host.parse::<Ipv4Addr>().is_ok())
}

impl FromStr for ServiceUrl {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if is_canonical(text) {
            return Ok(Self(text.into()));
        }
        Self::read(text)
    }
}

impl ServiceUrl {
    fn read(text: &str) -> Result<Self, IdentityError> {
        let url = Url::parse(text).map_err(|_url| IdentityError::ServiceUrl)?;
        let bare = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if bare {
            Ok(Self(url.origin().ascii_serialization().into()))
        } else {
            Err(IdentityError::ServiceUrl)
        }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_short_way_to_an_origin_leads_where_the_long_one_does(
            text in r"https?://([a-z0-9.-]{1,12}|[0-9]{1,3}(\.[0-9]{1,3}){0,4}|(a|xn-|0x)[a-f0-9.-]{0,8})(:[0-9+]{1,6})?",
        ) {
            let long = ServiceUrl::read(&text);
            if is_canonical(&text) {
                prop_assert_eq!(long.as_ref().map(ServiceUrl::as_str), Ok(text.as_str()));
            }
            if let Ok(origin) = long {
                let host = Url::parse(&text).unwrap().host().map(|host| host.to_owned());
                prop_assert_eq!(origin.host().map(|host| host.to_owned()), host);
                let again = ServiceUrl::read(origin.as_str());
                prop_assert_eq!(again, Ok(origin));
            }
        }
    }

    #[test]
    fn dids() {
        for good in
            ["did:plc:ewvi7nxzyoun6zhxrhs64oiz", "did:web:example.com", "did:web:localhost%3A2583"]
        {
            assert_eq!(good.parse::<Did>().unwrap().as_str(), good);
        }
        let long = format!("did:plc:{}", "a".repeat(3_000));
        for bad in [
            "",
            "did",
            "did:",
            "did:plc",
            "did:plc:",
            "did:PLC:a",
            "did:plc:a b",
            "did:plc:a:",
            "x",
            &long,
        ] {
            assert_eq!(bad.parse::<Did>(), Err(IdentityError::Did), "{bad}");
        }
    }

    #[test]
    fn handles() {
        for good in ["alice.test", "a-b.example.co.uk", "8.cn", "XN--x.com"] {
            assert!(Handle::parse(good).is_some(), "{good}");
        }
        let long = format!("{}.com", "a.".repeat(130));
        for bad in [
            "",
            "alice",
            "alice..test",
            "-a.test",
            "a.test-",
            "a b.test",
            "a.1",
            "handle.invalid",
            &long,
        ] {
            assert!(Handle::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn account_ids() {
        let id: AccountId = "6806A8c4302c4281518c95b2".parse().unwrap();
        assert_eq!(id.to_string(), "6806a8c4302c4281518c95b2");
        for bad in
            ["", "6806a8c4302c4281518c95b", "6806a8c4302c4281518c95bg", "é806a8c4302c4281518c95"]
        {
            assert!(bad.parse::<AccountId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn service_urls() {
        let cases = [
            ("https://bsky.social", "https://bsky.social"),
            ("https://Bsky.Social:443/", "https://bsky.social"),
            ("http://127.0.0.1:2583", "http://127.0.0.1:2583"),
        ];
        for (text, origin) in cases {
            assert_eq!(text.parse::<ServiceUrl>().unwrap().as_str(), origin);
        }
        for bad in
            ["", "bsky.social", "ftp://a.b", "https://a.b/xrpc", "https://u:p@a.b", "https://a.b?x"]
        {
            assert!(bad.parse::<ServiceUrl>().is_err(), "{bad}");
        }
    }
}
