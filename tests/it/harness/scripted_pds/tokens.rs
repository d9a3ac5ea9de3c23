//! Tokens of a Bluesky server's shape: HS256 JWTs, signed with a stand-in of the same length.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const KEY: &[u8] = b"a scripted server's secret";

/// What a verified token says.
pub(crate) struct Claims {
    pub(crate) is_refresh: bool,
    pub(crate) subject: String,
    pub(crate) jti: String,
    pub(crate) expires_at: i64,
}

pub(crate) fn access(audience: &str, did: &str, (iat, exp): (i64, i64)) -> String {
    let claims = json!({
        "scope": "com.atproto.appPass", "aud": audience, "sub": did, "iat": iat, "exp": exp,
    });
    sign("at+jwt", &claims)
}

pub(crate) fn refresh(audience: &str, did: &str, jti: &str, (iat, exp): (i64, i64)) -> String {
    let claims = json!({
        "scope": "com.atproto.refresh", "aud": audience, "sub": did, "jti": jti,
        "iat": iat, "exp": exp,
    });
    sign("refresh+jwt", &claims)
}

/// The same token with another `exp`.
pub(crate) fn with_expiry(token: &str, exp: i64) -> String {
    let (header, mut claims) = (part(token, 0).unwrap(), part(token, 1).unwrap());
    claims["exp"] = json!(exp);
    sign(header["typ"].as_str().unwrap(), &claims)
}

/// Nothing for what this server did not sign.
pub(crate) fn verify(token: &str) -> Option<Claims> {
    let (content, signature) = token.rsplit_once('.')?;
    if signature != digest(content) {
        return None;
    }
    let (header, claims) = (part(token, 0)?, part(token, 1)?);
    Some(Claims {
        is_refresh: header["typ"] == "refresh+jwt",
        subject: claims["sub"].as_str()?.to_owned(),
        jti: claims["jti"].as_str().unwrap_or_default().to_owned(),
        expires_at: claims["exp"].as_i64()?,
    })
}

/// 43 characters that look random and are the same in every run.
pub(crate) fn name(of: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(of))
}

/// A DID of did:plc, the same in every run.
pub(crate) fn did(of: &str) -> String {
    let letter =
        |byte: &u8| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte % 32)]);
    format!("did:plc:{}", Sha256::digest(of).iter().take(24).map(letter).collect::<String>())
}

fn sign(typ: &str, claims: &Value) -> String {
    let header = json!({"typ": typ, "alg": "HS256"}).to_string();
    let content = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = digest(&content);
    format!("{content}.{signature}")
}

fn digest(content: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::new().chain_update(KEY).chain_update(content).finalize())
}

fn part(token: &str, index: usize) -> Option<Value> {
    let json = URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()?;
    serde_json::from_slice(&json).ok()
}
