//! Tokens of a Bluesky server's shape: HS256 JWTs, signed with a stand-in of the same length.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The header's `typ` of a refresh token.
const REFRESH: &str = "refresh+jwt";

const KEY: &[u8] = b"a scripted server's secret";

/// What a verified token says.
pub(crate) struct Claims {
    pub(crate) is_refresh: bool,
    pub(crate) subject: String,
    pub(crate) jti: String,
    pub(crate) expires_at: i64,
}

#[derive(Deserialize)]
struct Header<'a> {
    typ: &'a str,
}

#[derive(Deserialize)]
struct Signed<'a> {
    sub: &'a str,
    #[serde(default)]
    jti: &'a str,
    exp: i64,
}

pub(crate) fn access(audience: &str, did: &str, (iat, exp): (i64, i64)) -> String {
    let claims = format!(
        r#"{{"scope":"com.atproto.appPass","aud":"{audience}","sub":"{did}","iat":{iat},"exp":{exp}}}"#
    );
    sign("at+jwt", &claims)
}

pub(crate) fn refresh(audience: &str, did: &str, jti: &str, (iat, exp): (i64, i64)) -> String {
    let claims = format!(
        r#"{{"scope":"com.atproto.refresh","aud":"{audience}","sub":"{did}","jti":"{jti}","iat":{iat},"exp":{exp}}}"#
    );
    sign(REFRESH, &claims)
}

/// The same token with another `exp`.
pub(crate) fn with_expiry(token: &str, exp: i64) -> String {
    let part = |index| serde_json::from_slice::<Value>(&part(token, index).unwrap()).unwrap();
    let (header, mut claims) = (part(0), part(1));
    claims["exp"] = json!(exp);
    sign(header["typ"].as_str().unwrap(), &claims.to_string())
}

/// Nothing for what this server did not sign.
pub(crate) fn verify(token: &str) -> Option<Claims> {
    let (content, signature) = token.rsplit_once('.')?;
    if signature != digest(content) {
        return None;
    }
    let (header, claims) = (part(token, 0)?, part(token, 1)?);
    let header: Header<'_> = serde_json::from_slice(&header).ok()?;
    let claims: Signed<'_> = serde_json::from_slice(&claims).ok()?;
    Some(Claims {
        is_refresh: header.typ == REFRESH,
        subject: claims.sub.to_owned(),
        jti: claims.jti.to_owned(),
        expires_at: claims.exp,
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

fn sign(typ: &str, claims: &str) -> String {
    let mut token = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#));
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = digest(&token);
    token.push('.');
    token.push_str(&signature);
    token
}

fn digest(content: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::new().chain_update(KEY).chain_update(content).finalize())
}

fn part(token: &str, index: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()
}
