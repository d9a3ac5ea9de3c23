//! Reading a field of a BSON document without trusting its type, and writing times.

use chrono::{DateTime, Utc};
use mongodb::bson::{self, Bson, RawBsonRef, RawDocument};

/// The longest text that is kept for logs, in characters.
const LONGEST_TEXT: usize = 256;

/// What stands under a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    /// Nothing, or null.
    Nothing,
    /// A value.
    Value(RawBsonRef<'a>),
    /// A value that cannot be read, such as a text that is not UTF-8.
    Broken,
}

impl<'a> Field<'a> {
    fn value(self) -> Option<RawBsonRef<'a>> {
        match self {
            Field::Value(value) => Some(value),
            Field::Nothing | Field::Broken => None,
        }
    }

    pub(super) fn text(self) -> Option<&'a str> {
        self.value()?.as_str()
    }

    /// A text for people, cut to a sane length.
    pub(super) fn short_text(self) -> Option<String> {
        self.text().map(cut)
    }

    pub(super) fn time(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.value()?.as_datetime()?.timestamp_millis())
    }

    pub(super) fn object_id(self) -> Option<[u8; 12]> {
        self.value()?.as_object_id().map(|id| id.bytes())
    }

    pub(super) fn document(self) -> Option<&'a RawDocument> {
        self.value()?.as_document()
    }

    /// A count, of whatever numeric type: JavaScript writes whole numbers as it likes.
    pub(super) fn count(self) -> Option<u64> {
        number(self.value()?)
    }
}

/// The fields `keys`. A text beside them that is not UTF-8 does not hide them, as it would from
/// `RawDocument::get`; bytes that are no document at all never pass for a missing field.
pub(super) fn all<'a, const N: usize>(raw: &'a RawDocument, keys: [&str; N]) -> [Field<'a>; N] {
    let mut found = [None; N];
    let mut missing = Field::Nothing;
    for element in raw.iter_elements() {
        let Ok(element) = element else {
            missing = Field::Broken;
            break;
        };
        let name = element.key().as_str();
        let place = keys.iter().zip(&mut found).find(|(key, _)| **key == name);
        // Of two fields of one name, the first counts.
        if let Some((_, place @ None)) = place {
            *place = Some(match element.value() {
                Ok(RawBsonRef::Null | RawBsonRef::Undefined) => Field::Nothing,
                Ok(value) => Field::Value(value),
                Err(_) => Field::Broken,
            });
        }
    }
    found.map(|field| field.unwrap_or(missing))
}

pub(super) fn get<'a>(raw: &'a RawDocument, key: &str) -> Field<'a> {
    let [field] = all(raw, [key]);
    field
}

pub(super) fn text<'a>(raw: &'a RawDocument, key: &str) -> Option<&'a str> {
    get(raw, key).text()
}

/// A text for people, cut to a sane length.
pub(super) fn short_text(raw: &RawDocument, key: &str) -> Option<String> {
    get(raw, key).short_text()
}

pub(super) fn time(raw: &RawDocument, key: &str) -> Option<DateTime<Utc>> {
    get(raw, key).time()
}

pub(super) fn boolean(raw: &RawDocument, key: &str) -> Option<bool> {
    get(raw, key).value()?.as_bool()
}

pub(super) fn object_id(raw: &RawDocument, key: &str) -> Option<[u8; 12]> {
    get(raw, key).object_id()
}

pub(super) fn document<'a>(raw: &'a RawDocument, key: &str) -> Option<&'a RawDocument> {
    get(raw, key).document()
}

pub(super) fn count(raw: &RawDocument, key: &str) -> Option<u64> {
    get(raw, key).count()
}

pub(super) fn number(value: RawBsonRef<'_>) -> Option<u64> {
    match value {
        RawBsonRef::Int32(n) => u64::try_from(n).ok(),
        RawBsonRef::Int64(n) => u64::try_from(n).ok(),
        // Through its text: a double has no checked conversion, and fractions are no counts.
        RawBsonRef::Double(n) => format!("{n}").parse().ok(),
        _ => None,
    }
}

/// The text's first characters.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

pub(super) fn date(at: DateTime<Utc>) -> bson::DateTime {
    bson::DateTime::from_millis(at.timestamp_millis())
}

pub(super) fn date_or_null(at: Option<DateTime<Utc>>) -> Bson {
    at.map_or(Bson::Null, |at| date(at).into())
}

pub(super) fn whole(n: u64) -> Bson {
    Bson::Int64(i64::try_from(n).unwrap_or(i64::MAX))
}
