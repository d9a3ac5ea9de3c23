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

/// The field `key`. A text beside it that is not UTF-8 does not hide it, as it would from
/// `RawDocument::get`; bytes that are no document at all never pass for a missing field.
pub(super) fn get<'a>(raw: &'a RawDocument, key: &str) -> Field<'a> {
    for element in raw.iter_elements() {
        let Ok(element) = element else { return Field::Broken };
        if element.key().as_str() == key {
            return match element.value() {
                Ok(RawBsonRef::Null | RawBsonRef::Undefined) => Field::Nothing,
                Ok(value) => Field::Value(value),
                Err(_) => Field::Broken,
            };
        }
    }
    Field::Nothing
}

fn value<'a>(raw: &'a RawDocument, key: &str) -> Option<RawBsonRef<'a>> {
    match get(raw, key) {
        Field::Value(value) => Some(value),
        Field::Nothing | Field::Broken => None,
    }
}

pub(super) fn text<'a>(raw: &'a RawDocument, key: &str) -> Option<&'a str> {
    value(raw, key)?.as_str()
}

/// A text for people, cut to a sane length.
pub(super) fn short_text(raw: &RawDocument, key: &str) -> Option<String> {
    text(raw, key).map(cut)
}

pub(super) fn time(raw: &RawDocument, key: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(value(raw, key)?.as_datetime()?.timestamp_millis())
}

pub(super) fn boolean(raw: &RawDocument, key: &str) -> Option<bool> {
    value(raw, key)?.as_bool()
}

pub(super) fn object_id(raw: &RawDocument, key: &str) -> Option<[u8; 12]> {
    value(raw, key)?.as_object_id().map(|id| id.bytes())
}

pub(super) fn document<'a>(raw: &'a RawDocument, key: &str) -> Option<&'a RawDocument> {
    value(raw, key)?.as_document()
}

/// A count, of whatever numeric type: JavaScript writes whole numbers as it likes.
pub(super) fn count(raw: &RawDocument, key: &str) -> Option<u64> {
    number(value(raw, key)?)
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
