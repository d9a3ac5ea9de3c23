//! The copy of an account's tokens in a job's data: whether it is older than the pair that the
//! document holds, and the same data with that pair. JSON is never written anew: only the bytes of
//! three values change.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::account::Document;
use crate::domain::identity::Did;
use crate::domain::session::{AccessJwt, RefreshJwt};

/// The pair that an account's document holds, and whose it is.
#[derive(Debug, Clone)]
pub struct Current {
    did: Did,
    access: AccessJwt,
    refresh: RefreshJwt,
}

impl Current {
    /// The pair of a document that was read with its access token; `None`: it holds none.
    pub fn of(document: &Document) -> Option<Self> {
        let account = document.account.as_ref().ok()?;
        // Somebody else's tokens stay where they are.
        let is_own = account.refresh.subject() == account.did.as_str();
        let access = document.access.clone().filter(|_| is_own)?;
        Some(Self { did: account.did.clone(), access, refresh: account.refresh.clone() })
    }

    /// The pair's tokens, for a fingerprint.
    pub fn expose(&self) -> (&str, &str) {
        (self.access.expose(), self.refresh.expose())
    }
}

/// What is to become of a job's data.
#[derive(Clone, PartialEq, Eq)]
pub enum Copied {
    /// It carried an older pair: this is the same with the document's.
    New(String),
    /// It stays as it is.
    Left(Left),
}

/// Holds tokens, and shows none.
impl fmt::Debug for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New(data) => write!(f, "New({} bytes)", data.len()),
            Self::Left(why) => write!(f, "Left({why:?})"),
        }
    }
}

/// Why a job's data stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It carries the document's pair.
    Current,
    /// It carries a pair that was issued later: the document is yet to be written, or the job is
    /// another session's.
    Newer,
    /// It carries a token of another DID.
    OtherAccount,
    /// It is no JSON, or has the tokens elsewhere, or twice, or not as texts.
    Shape,
}

/// Brings the copy in a job's data up to the document's pair.
pub fn bring_up(data: &str, current: &Current) -> Copied {
    match edits(data, current) {
        Ok(edits) => Copied::New(edited(data, &edits)),
        Err(why) => Copied::Left(why),
    }
}

/// A value's place in the data, and what is to stand there.
type Edit = (Range<usize>, String);

fn edits(data: &str, current: &Current) -> Result<Vec<Edit>, Left> {
    let [account] = fields(data, ["account"]).ok_or(Left::Shape)?;
    let account = account.ok_or(Left::Shape)?.get();
    let [original] = fields(account, ["originalData"]).ok_or(Left::Shape)?;
    let places = [original.map(RawValue::get), Some(account)];
    let mut found = Vec::new();
    let mut why = Left::Shape;
    for place in places.into_iter().flatten() {
        match Tokens::read(place).and_then(|tokens| tokens.edits(data, current)) {
            Ok(edits) => found.extend(edits),
            // Of two copies, what is wrong with the second is of no interest beside the first.
            Err(reason) if why == Left::Shape => why = reason,
            Err(_reason) => {}
        }
    }
    if found.is_empty() {
        return Err(why);
    }
    found.sort_by_key(|(range, _)| range.start);
    Ok(found)
}

/// One copy of a pair, as it is written.
struct Tokens<'a> {
    access: &'a RawValue,
    refresh: &'a RawValue,
    expiry: Option<&'a RawValue>,
}

impl<'a> Tokens<'a> {
    fn read(place: &'a str) -> Result<Self, Left> {
        let [access, refresh, expiry] =
            fields(place, ["accessToken", "refreshToken", "tokenExpiry"]).ok_or(Left::Shape)?;
        match (access, refresh) {
            (Some(access), Some(refresh)) => Ok(Self { access, refresh, expiry }),
            _ => Err(Left::Shape),
        }
    }

    fn edits(&self, data: &str, current: &Current) -> Result<Vec<Edit>, Left> {
        let (access, refresh) = (text(self.access)?, text(self.refresh)?);
        if refresh == current.refresh.expose() {
            if access == current.access.expose() {
                return Err(Left::Current);
            }
        } else {
            let token = RefreshJwt::parse(&refresh).map_err(|_no_token| Left::Shape)?;
            if token.subject() != current.did.as_str() {
                return Err(Left::OtherAccount);
            }
            if token.issued_at() > current.refresh.issued_at() {
                return Err(Left::Newer);
            }
        }
        let mut edits = vec![
            (place(data, self.access)?, quoted(current.access.expose())),
            (place(data, self.refresh)?, quoted(current.refresh.expose())),
        ];
        if let Some(expiry) = self.expiry {
            let written = like(expiry, current.access.expires_at()).ok_or(Left::Shape)?;
            edits.push((place(data, expiry)?, written));
        }
        Ok(edits)
    }
}

/// A time as JavaScript would have written it in the place of `before`; `None`: before it stood
/// something that is no time.
fn like(before: &RawValue, at: DateTime<Utc>) -> Option<String> {
    match before.get().bytes().next()? {
        b'"' | b'n' => Some(quoted(&at.to_rfc3339_opts(SecondsFormat::Millis, true))),
        b'-' | b'0'..=b'9' => Some(at.timestamp_millis().to_string()),
        _ => None,
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn text(value: &RawValue) -> Result<Cow<'_, str>, Left> {
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(value.get()).map(|it| it.0).map_err(|_no_text| Left::Shape)
}

/// Where a value stands that was found in `data` without copying it.
fn place(data: &str, value: &RawValue) -> Result<Range<usize>, Left> {
    let start = value.get().as_ptr().addr().checked_sub(data.as_ptr().addr()).ok_or(Left::Shape)?;
    let range = start..start + value.get().len();
    // What is not there after all is not touched.
    if data.get(range.clone()) == Some(value.get()) { Ok(range) } else { Err(Left::Shape) }
}

fn edited(data: &str, edits: &[Edit]) -> String {
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut edited = String::with_capacity(data.len() + added);
    let mut done = 0;
    for (range, text) in edits {
        edited += data.get(done..range.start).unwrap_or_default();
        edited += text;
        done = range.end;
    }
    edited + data.get(done..).unwrap_or_default()
}

/// The values of `keys` in a JSON object, as they are written; `None`: it is no object, or one of
/// the keys stands in it twice.
fn fields<'a, const N: usize>(
    json: &'a str,
    keys: [&'static str; N],
) -> Option<[Option<&'a RawValue>; N]> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = deserializer.deserialize_map(Fields(keys)).ok()?;
    deserializer.end().ok()?;
    Some(found)
}

struct Fields<const N: usize>([&'static str; N]);

impl<'a, const N: usize> Visitor<'a> for Fields<N> {
    type Value = [Option<&'a RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(key) = map.next_key::<String>()? {
            let place = self.0.iter().zip(&mut found).find(|(name, _)| **name == key);
            match place {
                None => {
                    let IgnoredAny = map.next_value()?;
                }
                Some((_, place @ None)) => *place = Some(map.next_value()?),
                Some(_) => return Err(serde::de::Error::custom("a key stands there twice")),
            }
        }
        Ok(found)
    }
}
