//! An account's document, from BSON. Any field may be missing, null or of the wrong type.

use std::str::FromStr as _;

use mongodb::bson::{Document as Bson, RawBsonRef, RawDocument, doc};

use super::field::{self, Field};
use crate::domain::account::{Account, Bookkeeping, Document, Status, StoredToken, Unusable};
use crate::domain::identity::{AccountId, Did};
use crate::domain::moment::Moment;
use crate::domain::session::{AccessJwt, RefreshJwt};

/// The fields that [`read`] looks at. `tokenRefresh` is fetched whole: a path into it costs MongoDB
/// more than the few fields that are left out.
pub(super) fn projection() -> Bson {
    doc! {
        "platformAccountId": 1, "platformUsername": 1, "refreshToken": 1, "status": 1,
        "tokenExpiry": 1, "tokenRefresh": 1,
    }
}

/// The same, and the access token: for whoever appraises, or hands the pair on.
pub(super) fn with_access() -> Bson {
    let mut fields = projection();
    fields.insert("accessToken", 1);
    fields
}

/// Understands a document as far as it can be. `None`: its `_id` is no `ObjectId`, so that
/// nothing can be said about it.
pub(super) fn read(raw: &RawDocument) -> Option<Document> {
    let [id, did, handle, status, refresh, access, token_expiry, kept] = field::all(
        raw,
        [
            "_id",
            "platformAccountId",
            "platformUsername",
            "status",
            "refreshToken",
            "accessToken",
            "tokenExpiry",
            "tokenRefresh",
        ],
    );
    let id = AccountId::from_bytes(id.object_id()?);
    let handle = handle.short_text();
    let status = Status::read(status.text());
    let token_expiry = token_expiry.time();
    let kept = kept.document().map(bookkeeping).unwrap_or_default();
    let (token, refresh) = token(refresh);
    let account = refresh.and_then(|refresh| {
        let did = identity(did)?;
        let (handle, kept) = (handle.clone(), kept.clone());
        Ok(Account { id, did, handle, refresh, status, token_expiry, kept })
    });
    let did = did.short_text();
    let access = access.text().and_then(|text| AccessJwt::parse(text).ok());
    Some(Document { id, did, handle, status, token_expiry, access, kept, token, account })
}

fn token(field: Field<'_>) -> (StoredToken, Result<RefreshJwt, Unusable>) {
    match field {
        Field::Nothing | Field::Value(RawBsonRef::String("")) => {
            (StoredToken::Null, Err(Unusable::NoRefreshToken))
        }
        Field::Value(RawBsonRef::String(text)) => match RefreshJwt::parse(text) {
            Ok(token) => (StoredToken::Token(token.clone()), Ok(token)),
            Err(error) => (StoredToken::Unreadable, Err(Unusable::token(error))),
        },
        Field::Value(_) | Field::Broken => {
            (StoredToken::Unreadable, Err(Unusable::malformed("refreshToken", "is not a text")))
        }
    }
}

fn identity(field: Field<'_>) -> Result<Did, Unusable> {
    let why = match field {
        Field::Value(RawBsonRef::String(text)) => match Did::from_str(text) {
            Ok(did) => return Ok(did),
            Err(error) => format!("is {error}"),
        },
        Field::Nothing => "is missing".to_owned(),
        Field::Value(_) | Field::Broken => "is not a text".to_owned(),
    };
    Err(Unusable::malformed("platformAccountId", why))
}

fn bookkeeping(raw: &RawDocument) -> Bookkeeping {
    let [refreshed, attempted, service, outcome, failures, next, judged, ours, theirs] = field::all(
        raw,
        [
            "refreshedAt",
            "attemptedAt",
            "service",
            "outcome",
            "failures",
            "nextAttemptAt",
            "judgedJti",
            "heardAt",
            "heardAtServer",
        ],
    );
    Bookkeeping {
        refreshed_at: refreshed.time(),
        attempted_at: attempted.time(),
        service: service.text().and_then(|text| text.parse().ok()),
        outcome: outcome.text().and_then(|text| text.parse().ok()),
        failures: to_failures(failures),
        next_attempt_at: next.time(),
        judged_jti: judged.text().map(str::to_owned),
        heard: ours.time().map(|ours| Moment { ours, theirs: theirs.time() }),
    }
}

pub(super) fn failures(raw: &RawDocument) -> u32 {
    to_failures(field::get(raw, "failures"))
}

fn to_failures(count: Field<'_>) -> u32 {
    count.count().map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Outcome;
    use crate::domain::session::tests::token as jwt;
    use mongodb::bson::{Bson as Value, DateTime, RawDocumentBuf, oid::ObjectId};

    const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

    fn good() -> Bson {
        let claims = serde_json::json!({"sub": DID, "jti": "j1", "iat": 10, "exp": 20});
        let at = DateTime::from_millis(1_000);
        doc! {
            "_id": ObjectId::from_bytes([7; 12]), "platform": "bluesky",
            "platformAccountId": DID, "platformUsername": "alice.test",
            "refreshToken": jwt(&claims), "status": "active",
            "tokenRefresh": {
                "refreshedAt": at, "attemptedAt": at, "service": "https://bsky.social",
                "outcome": "refreshed", "failures": 3, "nextAttemptAt": at, "judgedJti": "j1",
                "heardAt": at, "heardAtServer": at,
            },
        }
    }

    fn with(key: &str, value: Option<Value>) -> Option<Document> {
        let mut document = good();
        let (parent, key) = match key.strip_prefix("tokenRefresh.") {
            Some(key) => (document.get_document_mut("tokenRefresh").unwrap(), key),
            None => (&mut document, key),
        };
        match value {
            Some(value) => parent.insert(key, value),
            None => parent.remove(key),
        };
        read(&RawDocumentBuf::try_from(&document).unwrap())
    }

    fn odd_values() -> Vec<Option<Value>> {
        vec![
            None,
            Some(Value::Null),
            Some(Value::Undefined),
            Some(Value::Int32(-1)),
            Some(Value::Int64(i64::MAX)),
            Some(Value::Double(f64::NAN)),
            Some(Value::Boolean(true)),
            Some(Value::String(String::new())),
            Some(Value::String("x".repeat(1_000_000))),
            Some(Value::DateTime(DateTime::MAX)),
            Some(Value::DateTime(DateTime::MIN)),
            Some(Value::Array(vec![Value::Null])),
            Some(doc! { "a": 1 }.into()),
            Some(Value::ObjectId(ObjectId::from_bytes([1; 12]))),
            Some(Value::MaxKey),
        ]
    }

    #[test]
    fn a_good_document_is_understood() {
        let document = with("scope", None).unwrap();
        let account = document.account.unwrap();
        assert_eq!(account.id.to_string(), "07".repeat(12));
        assert_eq!((account.did.as_str(), account.handle.as_deref()), (DID, Some("alice.test")));
        assert_eq!((account.refresh.jti(), account.status), ("j1", Status::Active));
        let kept = account.kept;
        assert_eq!(kept, document.kept);
        assert_eq!((kept.failures, kept.outcome), (3, Some(Outcome::Refreshed)));
        assert_eq!(kept.service.unwrap().as_str(), "https://bsky.social");
        assert_eq!(kept.judged_jti.as_deref(), Some("j1"));
        let heard = kept.heard.unwrap();
        assert_eq!(Some(heard.ours), heard.theirs);
        for at in [kept.refreshed_at, kept.attempted_at, kept.next_attempt_at, heard.theirs] {
            assert_eq!(at.unwrap().timestamp(), 1);
        }
    }

    #[test]
    fn a_token_of_any_kind_is_none_or_malformed() {
        for value in odd_values() {
            let none = matches!(&value, None | Some(Value::Null | Value::Undefined))
                || value == Some(Value::String(String::new()));
            let document = with("refreshToken", value.clone()).unwrap();
            let why = document.account.unwrap_err();
            assert_eq!(matches!(document.token, StoredToken::Null), none, "{value:.20?}");
            let outcome = if none { Outcome::NoRefreshToken } else { Outcome::Malformed };
            assert_eq!(why.outcome(), outcome, "{value:.20?}");
            assert!(why.to_string().len() < 100);
        }
    }

    #[test]
    fn no_value_of_any_other_field_stops_the_reading() {
        for value in odd_values() {
            let document = with("platformAccountId", value.clone()).unwrap();
            assert_eq!(document.account.unwrap_err().outcome(), Outcome::Malformed);
            assert!(document.did.is_none_or(|did| did.len() <= 256));

            let document = with("platformUsername", value.clone()).unwrap();
            assert!(document.account.is_ok(), "a handle is for logs only");
            assert!(document.handle.is_none_or(|handle| handle.len() <= 256));

            let document = with("status", value.clone()).unwrap();
            assert_eq!(document.status, Status::Foreign);
            assert_eq!(document.account.unwrap().status, Status::Foreign);

            let document = with("tokenRefresh", value.clone()).unwrap();
            assert_eq!(document.account.unwrap().kept, Bookkeeping::default());
        }
    }

    #[test]
    fn bookkeeping_of_the_wrong_type_reads_as_never_having_been() {
        let keys = ["refreshedAt", "attemptedAt", "nextAttemptAt", "heardAt"];
        for value in odd_values() {
            for key in keys.into_iter().chain(["service", "outcome", "failures", "judgedJti"]) {
                let document = with(&format!("tokenRefresh.{key}"), value.clone()).unwrap();
                let kept = document.account.unwrap().kept;
                let still_there = match key {
                    "refreshedAt" => kept.refreshed_at.is_some(),
                    "attemptedAt" => kept.attempted_at.is_some(),
                    "nextAttemptAt" => kept.next_attempt_at.is_some(),
                    "heardAt" => kept.heard.is_some(),
                    "service" => kept.service.is_some(),
                    "outcome" => kept.outcome.is_some(),
                    "failures" => kept.failures != 0,
                    _ => kept.judged_jti.is_some(),
                };
                let fits = matches!(
                    (key, &value),
                    ("judgedJti", Some(Value::String(_))) | ("failures", Some(Value::Int64(_)))
                );
                assert_eq!(still_there, fits, "{key} {value:.20?}");
            }
        }
    }

    #[test]
    fn numbers_of_any_type_are_counts() {
        for (value, failures) in [
            (Value::Int32(2), 2),
            (Value::Int64(2), 2),
            (Value::Double(2.0), 2),
            (Value::Double(2.5), 0),
            (Value::Int64(i64::MAX), u32::MAX),
        ] {
            let document = with("tokenRefresh.failures", Some(value)).unwrap();
            assert_eq!(document.kept.failures, failures);
        }
    }

    #[test]
    fn an_id_of_another_type_is_nobody() {
        for id in [Value::String("x".to_owned()), Value::Null, Value::Int32(1)] {
            assert!(with("_id", Some(id)).is_none());
        }
    }

    #[test]
    fn a_text_that_is_not_utf_8_hides_nothing_behind_it() {
        let bytes = RawDocumentBuf::try_from(&good()).unwrap().into_bytes();
        let at = bytes.windows(10).position(|window| window == b"alice.test").unwrap();
        let mut broken = bytes.clone();
        broken[at] = 0xFF;
        let document = read(&RawDocumentBuf::from_bytes(broken).unwrap()).unwrap();
        assert_eq!(document.handle, None);
        assert_eq!(document.account.unwrap().refresh.jti(), "j1");

        let at = bytes.windows(4).position(|window| window == b"e30.").unwrap();
        let mut broken = bytes;
        broken[at] = 0xFF;
        let document = read(&RawDocumentBuf::from_bytes(broken).unwrap()).unwrap();
        assert!(matches!(document.token, StoredToken::Unreadable));
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", with("scope", None)).contains("e30"));
    }
}
