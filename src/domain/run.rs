//! The name of a run: one refresh of all accounts.

use std::fmt;
use std::str::FromStr;

/// Not the name of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a run id (expected 1 to 64 letters, digits or any of `:._-`)")]
pub struct RunIdError;

/// A run's name: 1 to [`RunId::MAX_BYTES`] letters, digits or any of `:._-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(String);

impl RunId {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, RunIdError> {
        let good = (1..=Self::MAX_BYTES).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b":._-".contains(&b));
        if good { Ok(Self(text.to_owned())) } else { Err(RunIdError) }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_need_no_escaping_are_runs() {
        for good in ["cron:2026-11-22T00:00:00Z", "a", &"x".repeat(64)] {
            assert_eq!(good.parse::<RunId>().map(|it| it.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a|b", "a,b", "é", &"x".repeat(65)] {
            assert_eq!(bad.parse::<RunId>(), Err(RunIdError), "{bad}");
        }
    }
}
