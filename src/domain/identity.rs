//! Names of people, accounts and servers, parsed once and valid ever after.

use std::fmt;
use std::str::FromStr;

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
pub struct Did(String);

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
        if good { Ok(Self(text.to_owned())) } else { Err(IdentityError::Did) }
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

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The origin of a server that refreshes sessions: scheme, host and port, no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceUrl(String);

impl ServiceUrl {
    /// The origin as text, such as `https://bsky.social`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host: a name or an address.
    pub fn host(&self) -> Option<Host<String>> {
        Url::parse(&self.0).ok()?.host().map(|host| host.to_owned())
    }
}

impl FromStr for ServiceUrl {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let url = Url::parse(text).map_err(|_url| IdentityError::ServiceUrl)?;
        let bare = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if bare {
            Ok(Self(url.origin().ascii_serialization()))
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
    use super::*;

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
