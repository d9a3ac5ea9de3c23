//! What can go wrong with MongoDB, in sentences that say what to do.
//!
//! The driver's own errors are taken apart here and not kept as sources: they print the server's
//! whole answer, and a refusal's message can quote the command, tokens and all.

use mongodb::error::{CommandError, Error, ErrorKind, WriteFailure};

use super::field::cut;

/// An error of the store. None ever holds a password, a token or the URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The connection string cannot be used.
    #[error(
        "MONGODB_URI cannot be used ({0}); expected mongodb://user:password@host:port/database, with every / : @ % of the password percent-encoded"
    )]
    BadUri(String),
    /// The name or the password is wrong.
    #[error(
        "MongoDB refused the login; check the user, the password and authSource in MONGODB_URI"
    )]
    BadLogin,
    /// The user lacks a right.
    #[error("the MongoDB user may not {0}; grant it the role readWrite on the database")]
    NotAllowed(&'static str),
    /// No server that could do it was found. Nothing was written.
    #[error("MongoDB cannot be reached ({0}); check MONGODB_URI and that the server runs")]
    Unreachable(String),
    /// The connection or the patience ended before the answer came, or the answer was that a
    /// majority is not reached yet: a write may have happened, and is to be repeated as it was.
    #[error("MongoDB gave no answer ({0}); a write may have happened and has to be repeated")]
    Unanswered(String),
    /// The whole database takes no writes for now; of some that went together, a few may have been
    /// carried out.
    #[error("MongoDB takes no writes ({0}); see to its disk, or lift the block on writes")]
    Closed(String),
    /// The server understood and said no. Nothing was written.
    #[error("MongoDB refused a command ({0})")]
    Refused(String),
}

impl StoreError {
    /// Whether a write that ended so may have happened all the same.
    pub fn may_have_written(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::Closed(_))
    }

    /// The call was dropped half-way, by a panic or the end of the process.
    pub(super) fn broken_off() -> Self {
        Self::Unanswered("it was broken off".to_owned())
    }

    /// Whether the same call can succeed later as it is: no document is to blame.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unanswered(_) | Self::Closed(_))
    }
}

/// Unauthorized.
const NOT_ALLOWED: i32 = 13;
/// `AuthenticationFailed`, and what Atlas says instead.
const BAD_LOGIN: [i32; 2] = [18, 8_000];
/// Codes of a primary that steps down, shuts down or ran out of time: the write may have got
/// through (driver specification "Server Discovery and Monitoring", and `MaxTimeMSExpired`).
const INTERRUPTED: [i32; 12] =
    [10_107, 13_435, 10_058, 11_600, 11_602, 13_436, 189, 91, 50, 262, 64, 100];

/// `UserWritesBlocked` and `OutOfDiskSpace`.
const NO_WRITES: [i32; 2] = [371, 14_031];

/// `PathNotViable`: a dotted path leads through something that is no document.
pub(super) const PATH_NOT_VIABLE: i32 = 28;
/// `BadValue`.
const BAD_VALUE: i32 = 2;
/// `DuplicateKey`.
const DUPLICATE_KEY: i32 = 11_000;

/// The code of a single write that failed.
pub(super) fn write_code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}

pub(super) fn is_duplicate_key(error: &Error) -> bool {
    write_code(error) == Some(DUPLICATE_KEY)
}

/// Whether the index that a read named is not there.
pub(super) fn is_bad_hint(error: &Error) -> bool {
    let ErrorKind::Command(error) = error.kind.as_ref() else { return false };
    error.code == BAD_VALUE && error.message.contains("hint")
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error.kind.as_ref() {
            ErrorKind::Authentication { .. } => Self::BadLogin,
            ErrorKind::Command(error) => command(error),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => {
                Self::Unanswered(format!("write concern error {}", error.code))
            }
            ErrorKind::Write(WriteFailure::WriteError(error)) => {
                failed(error.code, "", &error.message)
            }
            ErrorKind::InsertMany(failed) => match &failed.write_errors {
                Some(errors) if !errors.is_empty() => {
                    Self::Refused(format!("{} of the documents were not inserted", errors.len()))
                }
                _ => Self::Unanswered("write concern error".to_owned()),
            },
            ErrorKind::ServerSelection { message, .. } => Self::Unreachable(selection(message)),
            ErrorKind::DnsResolve { message, .. } => Self::Unreachable(safe(message)),
            ErrorKind::InvalidTlsConfig { message, .. } => Self::BadUri(safe(message)),
            ErrorKind::Io(error) => Self::Unanswered(safe(&error.to_string())),
            ErrorKind::ConnectionPoolCleared { .. } => {
                Self::Unanswered("the connection was lost".to_owned())
            }
            ErrorKind::InvalidResponse { .. } => {
                Self::Unanswered("the answer was not understood".to_owned())
            }
            ErrorKind::IncompatibleServer { message, .. } => Self::Refused(safe(message)),
            _ => Self::Refused("the driver could not carry it out".to_owned()),
        }
    }
}

fn command(error: &CommandError) -> StoreError {
    match error.code {
        NOT_ALLOWED => StoreError::NotAllowed("read and write the collections"),
        code if BAD_LOGIN.contains(&code) => StoreError::BadLogin,
        code => failed(code, &cut(&error.code_name), &error.message),
    }
}

/// The error that a code and a message make, of a command or of one of its statements.
pub(super) fn failed(code: i32, name: &str, message: &str) -> StoreError {
    if INTERRUPTED.contains(&code) {
        StoreError::Unanswered(format!("error {code} {name}").trim_end().to_owned())
    } else if NO_WRITES.contains(&code) {
        StoreError::Closed(said(code, message))
    } else {
        StoreError::Refused(said(code, message))
    }
}

fn said(code: i32, message: &str) -> String {
    format!("error {code}: {}", safe(message))
}

/// A text of the server's or the driver's, bounded, and withheld if it may quote a token: every
/// JWT begins with the base64 of `{"`.
fn safe(text: &str) -> String {
    if text.contains("eyJ") { "message withheld".to_owned() } else { cut(text) }
}

/// The driver describes the whole topology; the first server's trouble says it best.
fn selection(message: &str) -> String {
    let trouble = message
        .split("Error: Kind: ")
        .nth(1)
        .and_then(|rest| rest.split(", labels").next())
        .map(safe);
    match trouble {
        Some(trouble) => trouble,
        None if message.contains("Servers: [ ]") => "no server is known".to_owned(),
        None => "no primary answered in time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topology_is_told_in_a_few_words() {
        let unknown = "Server selection timeout: No available servers. Topology: { Type: Unknown, \
            Servers: [ { Address: nowhere.invalid:27017, Type: Unknown, Error: Kind: I/O error: \
            failed to lookup address, labels: {} } ] }";
        assert_eq!(selection(unknown), "I/O error: failed to lookup address");
        assert_eq!(selection("Topology: { Servers: [ ] }"), "no server is known");
        assert_eq!(
            selection("Topology: { Servers: [ { Type: RSSecondary } ] }"),
            "no primary answered in time"
        );
    }

    #[test]
    fn a_message_that_may_quote_a_token_is_withheld() {
        assert_eq!(said(2, "bad value: eyJhbGciOiJIUzI1NiJ9.e30.s"), "error 2: message withheld");
        assert_eq!(said(2, &"a".repeat(1_000)).len(), 256 + "error 2: ".len());
    }
}
