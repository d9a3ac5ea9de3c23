//! Who may use the admin API: whoever knows `ADMIN_TOKEN`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Api;
use super::error::ApiError;

/// Lets a request through that carries the admin token.
pub(super) async fn require(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(api.token.as_ref(), request.headers())?;
    Ok(next.run(request).await)
}

fn check(token: Option<&SecretString>, headers: &HeaderMap) -> Result<(), ApiError> {
    let token = token.ok_or_else(ApiError::disabled)?;
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(ApiError::unauthorized());
    };
    let given = bearer(value.as_bytes()).ok_or_else(ApiError::unauthorized)?;
    // The digests have one length, so that the time taken does not tell the token's either.
    let expected = Sha256::digest(token.expose_secret().as_bytes());
    let same: bool = Sha256::digest(given).as_slice().ct_eq(expected.as_slice()).into();
    if same { Ok(()) } else { Err(ApiError::unauthorized()) }
}

/// The credentials after `Bearer`, whose case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, given) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| given.trim_ascii())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn headers(values: &[&str]) -> HeaderMap {
        let values =
            values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap()));
        values.collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn only_the_token_itself_opens() {
        let token = SecretString::from(TOKEN);
        let good = format!("Bearer {TOKEN}");
        for value in [good.clone(), format!("bearer {TOKEN}"), format!("BEARER   {TOKEN}")] {
            assert_eq!(check(Some(&token), &headers(&[&value])), Ok(()), "{value}");
        }
        let longer = format!("Bearer {TOKEN}0");
        let prefix = format!("Bearer {}", TOKEN.split_at(31).0);
        let basic = format!("Basic {TOKEN}");
        for values in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &[TOKEN],
            &[&longer],
            &[&prefix],
            &[&basic],
            &[&good, &good],
        ] {
            assert_eq!(
                check(Some(&token), &headers(values)),
                Err(ApiError::unauthorized()),
                "{values:?}"
            );
        }
    }

    #[test]
    fn without_a_token_of_its_own_nobody_gets_in() {
        for values in [&[][..], &["Bearer "], &["Bearer x"]] {
            assert_eq!(check(None, &headers(values)), Err(ApiError::disabled()));
        }
    }
}
