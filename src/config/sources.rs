//! Where values come from: the environment, `.env`, a TOML file, and files that hold secrets.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::problem::{Problem, shown};
use super::settings::{self, Setting};

/// More than any configuration needs; a device that never ends is refused.
const LARGEST_FILE: u64 = 1 << 20;

/// The process's own variables, as an origin.
const ENVIRONMENT: &str = "environment";
const DOTENV: &str = ".env";

/// What systemd calls the folders of `StateDirectory=`. No setting: nobody sets it by hand.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// The values that were found, each with its origin, and what was wrong on the way.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    values: BTreeMap<String, Value>,
    /// Settings that were given in a way that could not be read, and stand among the problems.
    spoilt: BTreeSet<&'static str>,
    host_name: Option<String>,
    state_directory: Option<String>,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

/// A value and where it was read. All are kept as secrets: which are is settled later.
#[derive(Debug, Clone)]
pub(super) struct Value {
    text: SecretString,
    pub(super) origin: String,
}

impl Value {
    pub(super) fn text(&self) -> &str {
        self.text.expose_secret()
    }
}

impl Sources {
    /// What this process was given: the only place that reads its environment.
    pub fn of_process() -> Self {
        let mut unreadable = Vec::new();
        let mut environment = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(environment.insert(name, value)),
                Err(_bytes) if is_known(&name) => unreadable
                    .push(Problem::general(format!("{name} (from {ENVIRONMENT}): not UTF-8"))),
                Err(_bytes) => {}
            }
        }
        let mut sources = Self::read(environment, Path::new(""), host_name());
        sources.problems.append(&mut unreadable);
        sources
    }

    /// What a process with this environment, working directory and host name would be given.
    pub fn read(
        environment: BTreeMap<String, String>,
        directory: &Path,
        host_name: Option<String>,
    ) -> Self {
        let state_directory = environment.get(STATE_DIRECTORY).cloned();
        let mut sources = Self { host_name, state_directory, ..Self::default() };
        sources.add(ENVIRONMENT, environment);
        sources.add_dotenv(&directory.join(DOTENV));
        sources.add_toml(directory);
        for setting in settings::ALL {
            sources.open_secret(setting, directory);
        }
        sources
    }

    /// The value of a setting, if one was given.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// Whether a setting was given in a way that could not be read.
    pub(super) fn is_spoilt(&self, name: &str) -> bool {
        self.spoilt.contains(name)
    }

    pub(super) fn host_name(&self) -> Option<&str> {
        self.host_name.as_deref()
    }

    pub(super) fn state_directory(&self) -> Option<&str> {
        self.state_directory.as_deref()
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds what no earlier origin has given. An empty value counts as not set.
    fn add(&mut self, origin: &str, given: impl IntoIterator<Item = (String, String)>) {
        for (name, text) in given {
            if is_known(&name) && !text.trim().is_empty() {
                let value = || Value { text: text.into(), origin: origin.to_owned() };
                self.values.entry(name).or_insert_with(value);
            }
        }
    }

    fn add_dotenv(&mut self, path: &Path) {
        let text = match read_text(path) {
            Ok(text) => text,
            // A folder of that name is a Python environment.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                ) =>
            {
                return;
            }
            Err(error) => return self.refuse(format!("{DOTENV} cannot be read: {error}")),
        };
        // dotenvy refuses a last line that ends in a space instead of a line break.
        let text = text.trim_start_matches('\u{feff}').trim_end().to_owned() + "\n";
        let count = Cell::new(0);
        let mut given = BTreeMap::new();
        for item in dotenvy::from_read_iter(Lines { rest: text.as_bytes(), count: &count }) {
            match item {
                Ok((name, value)) => drop(given.entry(name).or_insert(value)),
                Err(dotenvy::Error::LineParse(broken, _column)) => {
                    let broken = broken.strip_suffix('\n').unwrap_or(&broken);
                    let line = count.get().saturating_sub(broken.matches('\n').count());
                    self.refuse(format!(
                        "{DOTENV}, line {line}: not NAME=value; a value with spaces, quotes, # or \
                         $ needs single quotes around it"
                    ));
                }
                Err(error) => return self.refuse(format!("{DOTENV} cannot be read: {error}")),
            }
        }
        self.add(DOTENV, given);
    }

    fn add_toml(&mut self, directory: &Path) {
        let named = self.values.get(settings::REFRESHD_CONFIG.name).cloned();
        let default = settings::REFRESHD_CONFIG.default.unwrap_or_default();
        let path = named.as_ref().map_or(default, |named| named.text().trim()).to_owned();
        let text = match read_text(&directory.join(&path)) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let from = named.map_or_else(String::new, |named| {
                    format!(" (named by REFRESHD_CONFIG, from {})", named.origin)
                });
                return self.refuse(format!("{path}{from} cannot be read: {error}"));
            }
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_table(&path, table),
            Err(error) => {
                // Its own Display shows the line, which may hold a secret.
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(1, |before| before.matches('\n').count() + 1);
                let reason = error.message().replace('\n', ", ");
                self.refuse(format!("{path}, line {line}: {reason}"));
            }
        }
    }

    fn add_table(&mut self, path: &str, table: toml::Table) {
        let mut given = BTreeMap::new();
        for (key, value) in table {
            if value.is_table() {
                self.refuse(format!(
                    "[{}] (from {path}): tables have no meaning here; allowed: flat keys such as \
                     redis_host",
                    key.escape_debug()
                ));
                continue;
            }
            let Some(name) = known_keys().find(|name| key == name.to_lowercase()) else {
                self.refuse(unknown(&key, path));
                continue;
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                other => {
                    let kind = other.type_str();
                    let text = format!(
                        "{key} (from {path}): it is {kind}; allowed: a text, a number, true or false"
                    );
                    self.refuse(text);
                    continue;
                }
            };
            given.insert(name, text);
        }
        self.add(path, given);
    }

    /// Puts the content of the file that `NAME_FILE` names in `NAME`'s place.
    fn open_secret(&mut self, setting: &'static Setting, directory: &Path) {
        let Some(variant) = setting.file_variant() else { return };
        let Some(file) = self.values.remove(&variant) else { return };
        let from = format!("{variant}, from {}", file.origin);
        if let Some(other) = self.values.get(setting.name) {
            let text = format!(
                "{} (from {}) and {variant} (from {}) contradict each other; allowed: one of them",
                setting.name, other.origin, file.origin
            );
            return self.refuse(text);
        }
        let path = directory.join(file.text().trim());
        match read_text(&path) {
            Ok(content) => {
                let content = content.strip_suffix('\n').unwrap_or(&content);
                let content = content.strip_suffix('\r').unwrap_or(content);
                if content.trim().is_empty() {
                    self.notes.push(format!(
                        "{} is empty and counts as not set ({from})",
                        path.display()
                    ));
                }
                let origin = format!("{} ({from})", path.display());
                self.add(&origin, [(setting.name.to_owned(), content.to_owned())]);
            }
            Err(error) => {
                self.spoilt.insert(setting.name);
                let path = shown(&path.display().to_string());
                self.refuse(format!("{variant} = {path} (from {}): {error}", file.origin));
            }
        }
    }

    fn refuse(&mut self, text: String) {
        self.problems.push(Problem::general(text));
    }
}

/// The names that may stand in a TOML file, as variables.
fn known_keys() -> impl Iterator<Item = String> {
    let in_toml = settings::ALL.iter().filter(|setting| settings::in_toml(setting));
    in_toml.flat_map(|setting| [Some(setting.name.to_owned()), setting.file_variant()]).flatten()
}

fn is_known(name: &str) -> bool {
    name == settings::REFRESHD_CONFIG.name || known_keys().any(|known| known == name)
}

fn unknown(key: &str, path: &str) -> String {
    let known: Vec<String> = known_keys().map(|name| name.to_lowercase()).collect();
    let hint = settings::nearest(key, known.iter().map(String::as_str)).map_or_else(
        || "allowed: the keys that config/refreshd.toml of the distribution lists".to_owned(),
        |nearest| format!("did you mean {nearest}?"),
    );
    format!("unknown key {} (from {path}); {hint}", shown(key))
}

/// Hands text out line by line and counts: a broken line is told by its number, never by its text.
struct Lines<'a> {
    rest: &'a [u8],
    count: &'a Cell<usize>,
}

impl io::Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let line = self.rest.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut part = line.take(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        let size = part.read(buffer)?;
        self.rest = self.rest.get(size..).unwrap_or_default();
        self.count.set(self.count.get() + usize::from(size > 0 && size == line.len()));
        Ok(size)
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let size = File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(size).is_ok_and(|size| size > LARGEST_FILE) {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// The host's name, without asking the environment: the kernel's, else the one set at boot.
fn host_name() -> Option<String> {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .map(PathBuf::from)
        .iter()
        .filter_map(|path| read_text(path).ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
}
