//! Why a crontab pattern is refused, in words for the person who wrote it.

use std::num::NonZeroUsize;

/// Why a pattern is refused. The message is for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Neither five nor six fields.
    #[error(
        "the pattern has {count} fields; write 5 (minute, hour, day of month, month, day of week), \
         6 with seconds in front, or a nickname such as @weekly"
    )]
    FieldCount {
        /// How many there are.
        count: usize,
    },
    /// Seven fields, as other schedulers read them.
    #[error(
        "the pattern has 7 fields; a field for years is not supported, write 5 fields, or 6 with seconds in front"
    )]
    Years,
    /// An `@` word that is not a time of its own.
    #[error(
        "{text:?} is not a supported nickname; write one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, \
         @hourly"
    )]
    Nickname {
        /// The word as written.
        text: String,
    },
    /// One field cannot be honoured.
    #[error("field {position} ({name}) {text:?}: {problem}; allowed are {allowed}")]
    Field {
        /// Counted from 1, as written.
        position: usize,
        /// What the field stands for.
        name: &'static str,
        /// The field as written.
        text: String,
        /// What is wrong with it.
        problem: Problem,
        /// The forms that this field may have.
        allowed: &'static str,
    },
    /// Days that do not exist, such as 30 February.
    #[error("the pattern never ticks: no month that it names has such a day")]
    Never,
    /// The engine refused the translation. This is a bug of ours.
    #[error(
        "the pattern was understood but the scheduler refused it, please report this: {reason}"
    )]
    Engine {
        /// The engine's words.
        reason: String,
    },
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// As in `1,,2` or `5-`.
    #[error("a value is missing in a list or range")]
    Missing,
    /// As in `L`, `15W`, `5#2`, or `?` in a field that is not for days.
    #[error("{0:?} uses an extension (L, W, #, ? or +) that is not supported here")]
    Extension(String),
    /// Not a number, not a name of this field.
    #[error("{0:?} is not a value of this field")]
    NotAValue(String),
    /// A number outside the field.
    #[error("{0:?} is out of range")]
    OutOfRange(String),
    /// As in `*,5` or `*-5`.
    #[error("* stands alone or before a step, not in a list or range")]
    Star,
    /// As in `*/0` or `*/x`.
    #[error("{0:?} is not a step, which is a number from 1")]
    Step(String),
    /// As in `10/5`, which crontabs and other schedulers read differently.
    #[error("a step needs * or a range before it: write */{step}, or {start}-{max}/{step}")]
    StepWithoutRange {
        /// What stands before the step.
        start: String,
        /// The last value of the field.
        max: u32,
        /// The step.
        step: NonZeroUsize,
    },
}
