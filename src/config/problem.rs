//! What is wrong with a configuration, in words for the person who wrote it.

use std::fmt;

use super::settings::Setting;

/// The longest value that is shown, in characters.
const LONGEST_SHOWN: usize = 80;

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self(problems)
    }

    /// The problems, in the order in which they were found.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a problem:")?,
            count => write!(f, "the configuration has {count} problems:")?,
        }
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(String);

impl Problem {
    /// About a file or several settings at once.
    pub(super) fn general(text: String) -> Self {
        Self(text)
    }

    /// A setting without which the daemon cannot start.
    pub(super) fn missing(setting: &Setting) -> Self {
        let file = setting.file_variant().map(|name| format!(" (or {name}=/path)"));
        Self(format!(
            "{} is not set{}; allowed: {}",
            setting.name,
            file.unwrap_or_default(),
            setting.allowed()
        ))
    }

    /// A value that does not fit.
    pub(super) fn value(setting: &Setting, text: &str, origin: &str, allowed: &str) -> Self {
        let name = setting.name;
        if setting.is_secret() {
            Self(format!("{name} (value not shown, from {origin}): allowed: {allowed}"))
        } else {
            Self(format!("{name} = {} (from {origin}): allowed: {allowed}", shown(text)))
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value for a message: quoted, cut, and hidden when it looks like an address with a password.
pub(super) fn shown(text: &str) -> String {
    if text.contains("://") && text.contains('@') {
        return "(not shown, it may hold a password)".to_owned();
    }
    let cut: String = text.chars().take(LONGEST_SHOWN).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("{:?}", cut + dots)
}
