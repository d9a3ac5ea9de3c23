//! The lanes: which jobs overtake which.

use std::fmt;

/// A lane of the queue. Each overtakes those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// A person waits for it. Never metered.
    Manual,
    /// About to expire, or to be tried again.
    Due,
    /// One of a refresh-all.
    Bulk,
    /// An account in `error`.
    Error,
}

impl Lane {
    /// All of them, in order of precedence.
    pub const ALL: [Self; 4] = [Self::Manual, Self::Due, Self::Bulk, Self::Error];

    /// The name used in keys and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Due => "due",
            Self::Bulk => "bulk",
            Self::Error => "error",
        }
    }

    /// The number under which the scripts know it.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Manual => 1,
            Self::Due => 2,
            Self::Bulk => 3,
            Self::Error => 4,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.number() == number)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways_in_order() {
        for (lane, number) in Lane::ALL.into_iter().zip(1..) {
            assert_eq!(lane.number(), number);
            assert_eq!(Lane::from_number(number), Some(lane));
        }
        assert_eq!(Lane::from_number(5), None);
    }
}
