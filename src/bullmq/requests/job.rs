//! A job that was taken.

use std::fmt;

use super::{LARGEST, Options};

/// The longest part of a name or a reason that is shown, in characters.
const LONGEST_SHOWN: usize = 100;

/// A job's id, whatever it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobName(Vec<u8>);

impl JobName {
    /// As it stands in Redis.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for JobName {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// For people: cut to a sane length.
impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.get(..4 * LONGEST_SHOWN).unwrap_or(&self.0);
        let text = String::from_utf8_lossy(start);
        text.chars().take(LONGEST_SHOWN).try_for_each(|c| write!(f, "{}", c.escape_debug()))
    }
}

impl fmt::Debug for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobName({self})")
    }
}

/// A job that is held.
#[derive(Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub name: JobName,
    /// What kind of job it is: empty if that is longer than any real one.
    pub kind: String,
    /// Its `data`; `None`: larger than a request can be, and not read.
    pub data: Option<Vec<u8>>,
    /// Its options.
    pub options: Options,
    /// How often it was tried before.
    pub attempts_made: u64,
    /// When it was to be done first, in milliseconds since 1970.
    pub asked_at: u64,
    /// Why it is to fail, if that is settled.
    pub doomed: Option<String>,
    /// Whether it is part of a flow, whose other jobs wait for it.
    pub is_in_flow: bool,
    /// Whether nobody has ever begun it before.
    pub is_first: bool,
    /// Under which it is held.
    pub(super) token: String,
}

impl Job {
    /// Its name and what it is held under.
    pub fn hold(&self) -> (JobName, String) {
        (self.name.clone(), self.token.clone())
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({}, {})", self.name, self.kind)
    }
}

/// A job as the script tells of it: id, kind, data, its size, options, attempts made, made at, doomed, in a flow,
/// attempts begun.
pub(super) type Raw =
    (Vec<u8>, Vec<u8>, Vec<u8>, usize, Vec<u8>, u64, u64, Option<Vec<u8>>, bool, u64);

impl Job {
    pub(super) fn read(raw: Raw, token: &str) -> Self {
        let (name, kind, data, size, options, attempts_made, made_at, doomed, is_in_flow, begun) =
            raw;
        let options = Options::read(&options);
        Self {
            name: JobName(name),
            kind: String::from_utf8(kind).unwrap_or_default(),
            data: (size <= LARGEST).then_some(data),
            options,
            attempts_made,
            asked_at: made_at.saturating_add(options.delay_ms),
            doomed: doomed
                .map(|why| String::from_utf8_lossy(&why).chars().take(LONGEST_SHOWN).collect()),
            is_in_flow,
            is_first: begun <= 1,
            token: token.to_owned(),
        }
    }
}
