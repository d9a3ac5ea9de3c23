//! A session's two tokens: what they say of themselves, and nothing beyond it is trusted.
//!
//! The signature is the server's own symmetric one: a client cannot verify it and never needs
//! to. `exp`, `iat`, `sub`, `aud` and `jti` are read for scheduling and comparing alone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The longest token that is read, in bytes. Real ones have a few hundred.
pub const MAX_TOKEN_BYTES: usize = 16 * 1_024;

/// An access token's life at Bluesky, for one that does not tell its own (bluesky.md).
pub const USUAL_LIFE: Duration = Duration::from_hours(2);

/// Why a text is not a token. Never says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("is longer than 16 KiB")]
    TooLong,
    /// Not three dot-separated base64url parts around a JSON object.
    #[error("is not a JWT")]
    NotJwt,
    /// A claim that everything rests on is missing or of the wrong type.
    #[error("is a JWT without the claims of a session (sub, iat, exp)")]
    Claims,
}

/// Of any type, as far as it can be: a pair that was received must not be lost over an unusual
/// claim.
#[derive(Deserialize)]
struct RawClaims {
    sub: Option<Value>,
    aud: Option<Value>,
    jti: Option<Value>,
    iat: Option<Value>,
    exp: Option<Value>,
}

/// A text, or the first text of a list: RFC 7519 allows both for `aud`.
fn text(claim: Option<Value>) -> Option<String> {
    match claim? {
        Value::String(text) => Some(text),
        Value::Array(list) => list.into_iter().find_map(|item| text(Some(item))),
        _ => None,
    }
}

fn raw_claims(token: &str) -> Result<RawClaims, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let mut parts = token.split('.');
    let (Some(_header), Some(payload), Some(_signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::NotJwt);
    };
    let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_base64| TokenError::NotJwt)?;
    serde_json::from_slice(&json).map_err(|_json| TokenError::NotJwt)
}

/// A `NumericDate` (RFC 7519): whole seconds, or fractions of them, which are cut off.
fn instant(claim: Option<&Value>) -> Result<DateTime<Utc>, TokenError> {
    let seconds = claim.and_then(|it| it.as_i64().or_else(|| to_whole(it.as_f64()?)));
    seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).ok_or(TokenError::Claims)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "in the bounds that are checked"
)]
fn to_whole(seconds: f64) -> Option<i64> {
    (0.0..1e11).contains(&seconds).then_some(seconds as i64)
}

/// An access token: what posting uses, for some two hours. Cheap to clone.
#[derive(Clone)]
pub struct AccessJwt(Arc<Access>);

struct Access {
    token: SecretString,
    issued_at: Option<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
}

impl AccessJwt {
    /// Reads a token's own expiry, and when it was issued, should it say so.
    pub fn parse(token: &str) -> Result<Self, TokenError> {
        let claims = raw_claims(token)?;
        let expires_at = instant(claims.exp.as_ref())?;
        let issued_at = instant(claims.iat.as_ref()).ok();
        Ok(Self(Arc::new(Access { token: token.into(), issued_at, expires_at })))
    }

    /// From its issue to its end; a token that does not tell is taken for one of the usual life.
    pub fn life(&self) -> Life {
        let Access { issued_at, expires_at, .. } = *self.0;
        let issued_at = issued_at.filter(|at| *at < expires_at);
        Life { issued_at: issued_at.unwrap_or_else(|| before(expires_at)), expires_at }
    }

    /// The claim `exp`.
    pub fn expires_at(&self) -> DateTime<Utc> {
        self.0.expires_at
    }

    /// The token itself, for the store and nothing else.
    pub fn expose(&self) -> &str {
        self.0.token.expose_secret()
    }
}

impl fmt::Debug for AccessJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessJwt(exp {})", self.0.expires_at)
    }
}

/// An access token's life, by its server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Life {
    /// How long it is.
    pub fn length(self) -> Duration {
        (self.expires_at - self.issued_at).to_std().unwrap_or_default()
    }

    /// When it ends by a clock that says `now`. By one that is behind the server's the token is yet
    /// to be issued; it lives no longer for that.
    pub fn ends(self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.expires_at - (self.issued_at - now).max(TimeDelta::zero())
    }
}

/// A refresh token: spent by its one use, and one link of the session's chain. Cheap to clone.
#[derive(Clone)]
pub struct RefreshJwt(Arc<Refresh>);

struct Refresh {
    token: SecretString,
    subject: String,
    audience: String,
    jti: String,
    issued_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl RefreshJwt {
    /// Reads a token's claims.
    pub fn parse(token: &str) -> Result<Self, TokenError> {
        let claims = raw_claims(token)?;
        Ok(Self(Arc::new(Refresh {
            subject: text(claims.sub).ok_or(TokenError::Claims)?,
            audience: text(claims.aud).unwrap_or_default(),
            jti: text(claims.jti).unwrap_or_else(|| fingerprint(token)),
            issued_at: instant(claims.iat.as_ref())?,
            expires_at: instant(claims.exp.as_ref())?,
            token: token.into(),
        })))
    }

    /// The claim `sub`: the account's DID.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The claim `aud`: `did:web:` and the host of the server that can refresh it.
    pub fn audience(&self) -> &str {
        &self.0.audience
    }

    /// The claim `jti`, which names the link of the chain: two tokens of the same `jti` are
    /// copies of one link. A server that sends none gets a fingerprint of the token.
    pub fn jti(&self) -> &str {
        &self.0.jti
    }

    /// The claim `iat`.
    pub fn issued_at(&self) -> DateTime<Utc> {
        self.0.issued_at
    }

    /// The claim `exp`.
    pub fn expires_at(&self) -> DateTime<Utc> {
        self.0.expires_at
    }

    /// The token itself, for the store and the request header, and nothing else.
    pub fn expose(&self) -> &str {
        self.0.token.expose_secret()
    }

    /// The life of the access token that came with it and ends at `expires_at`, or after the usual
    /// time where that is unknown or of another pair.
    pub fn access_life(&self, expires_at: Option<DateTime<Utc>>) -> Life {
        let issued_at = self.0.issued_at;
        let expires_at = expires_at.filter(|at| *at > issued_at);
        Life { issued_at, expires_at: expires_at.unwrap_or_else(|| after(issued_at)) }
    }

    /// Whether the two are the same token, not merely the same link.
    pub fn is(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for RefreshJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefreshJwt(iat {}, exp {})", self.0.issued_at, self.0.expires_at)
    }
}

fn before(end: DateTime<Utc>) -> DateTime<Utc> {
    TimeDelta::from_std(USUAL_LIFE).ok().and_then(|it| end.checked_sub_signed(it)).unwrap_or(end)
}

fn after(begin: DateTime<Utc>) -> DateTime<Utc> {
    TimeDelta::from_std(USUAL_LIFE)
        .ok()
        .and_then(|it| begin.checked_add_signed(it))
        .unwrap_or(begin)
}

fn fingerprint(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    format!("sha256-{}", URL_SAFE_NO_PAD.encode(digest))
}

/// What one refresh yields: both tokens, which only make sense together.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The new access token.
    pub access: AccessJwt,
    /// The new refresh token.
    pub refresh: RefreshJwt,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An unsigned token with the given claims, for the tests of this crate.
    pub(crate) fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn claims_are_read() {
        let text = token(&serde_json::json!({
            "sub": "did:plc:a", "aud": "did:web:b.example", "jti": "j1", "iat": 10, "exp": 20,
        }));
        let jwt = RefreshJwt::parse(&text).unwrap();
        assert_eq!(
            (jwt.subject(), jwt.audience(), jwt.jti()),
            ("did:plc:a", "did:web:b.example", "j1")
        );
        assert_eq!((jwt.issued_at().timestamp(), jwt.expires_at().timestamp()), (10, 20));
        assert!(!format!("{jwt:?}").contains("e30"));
        assert_eq!(AccessJwt::parse(&text).unwrap().expires_at().timestamp(), 20);
    }

    #[test]
    fn a_token_without_jti_is_known_by_its_fingerprint() {
        let one = RefreshJwt::parse(&token(&serde_json::json!({"sub": "d", "iat": 1, "exp": 2})))
            .unwrap();
        let two = RefreshJwt::parse(&token(&serde_json::json!({"sub": "d", "iat": 1, "exp": 3})))
            .unwrap();
        assert!(one.jti().starts_with("sha256-"));
        assert_ne!(one.jti(), two.jti());
    }

    #[test]
    fn unusual_claims_are_read_as_far_as_they_can_be() {
        let text = token(&serde_json::json!({
            "sub": "d", "aud": ["did:web:a.example", "b"], "jti": 7, "iat": 10.9, "exp": 2e1,
        }));
        let jwt = RefreshJwt::parse(&text).unwrap();
        assert_eq!(jwt.audience(), "did:web:a.example");
        assert_eq!((jwt.issued_at().timestamp(), jwt.expires_at().timestamp()), (10, 20));
        assert!(jwt.jti().starts_with("sha256-"));
        assert!(AccessJwt::parse(&token(&serde_json::json!({"exp": 5}))).is_ok());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let huge = "a".repeat(1_000_000);
        let cases = [
            ("", TokenError::NotJwt),
            ("a.b", TokenError::NotJwt),
            ("e30.!!!.c", TokenError::NotJwt),
            ("e30.W10.c", TokenError::NotJwt),
            (huge.as_str(), TokenError::TooLong),
            ("e30.e30.c", TokenError::Claims),
        ];
        for (text, error) in cases {
            assert_eq!(RefreshJwt::parse(text).unwrap_err(), error, "{text:.20}");
        }
        let far = token(&serde_json::json!({"sub": "d", "iat": 1, "exp": i64::MAX}));
        assert_eq!(RefreshJwt::parse(&far).unwrap_err(), TokenError::Claims);
    }
}
