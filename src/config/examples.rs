//! Holds `.env.example` and `config/refreshd.toml` equal to the table of settings.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::settings::{ALL, Kind, Setting, in_toml};
use super::tests::sources;
use super::*;

const WIDTH: usize = 98;

const ENV_HEAD: &str = "Copy this file to .env beside the daemon's working directory and change what \
    you need. A line that stays commented out, or empty, means the default that it shows. What \
    the process environment sets goes before this file, and this file before the TOML file. Put \
    single quotes around values with spaces, quotes, # or $. A secret NAME can be given as \
    NAME_FILE=/path instead, for systemd credentials and Docker secrets.";

const TOML_HEAD: &str = "Every setting of refreshd, with its default. Uncomment what you change. The \
    process environment and .env go before this file. REFRESHD_CONFIG names another file. Keys are \
    flat; a secret can be given as name_file = \"/path\" instead.";

#[test]
fn the_examples_say_what_the_code_does() {
    for (path, expected) in
        [(".env.example", render_env()), ("config/refreshd.toml", render_toml())]
    {
        let found = fs::read_to_string(in_checkout(path)).unwrap_or_default();
        if found != expected {
            // Kept, for whoever copies it, and nobody else's.
            let folder = tempfile::tempdir().unwrap().keep();
            let fresh = folder.join(path.rsplit('/').next().unwrap());
            fs::write(&fresh, expected).unwrap();
            panic!(
                "{path} differs from src/config/settings.rs; what it should be: {}",
                fresh.display()
            );
        }
    }
}

#[test]
fn uncommented_they_are_the_default_configuration() {
    let uri = [("MONGODB_URI", "mongodb://h/d")];
    let empty = tempfile::tempdir().unwrap();
    let default = Config::load(&sources(&uri, empty.path())).unwrap();
    for (path, as_path) in
        [(".env.example", ".env"), ("config/refreshd.toml", "config/refreshd.toml")]
    {
        let text = fs::read_to_string(in_checkout(path)).unwrap();
        let lines: Vec<&str> = text.lines().filter_map(setting_line).collect();
        let count = ALL.iter().filter(|setting| path == ".env.example" || in_toml(setting)).count();
        assert_eq!(lines.len(), count, "{lines:?}");
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("config")).unwrap();
        if as_path == ".env" {
            // It names the default file, which must exist once it is named.
            fs::write(folder.path().join("config/refreshd.toml"), "").unwrap();
        }
        fs::write(folder.path().join(as_path), lines.join("\n")).unwrap();
        let config = Config::load(&sources(&uri, folder.path())).unwrap();
        assert_eq!(format!("{config:?}"), format!("{default:?}"), "{path}");
        // Not because they are ignored.
        let broken = lines.join("\n").replace("64", "5000");
        fs::write(folder.path().join(as_path), broken).unwrap();
        let errors = Config::load(&sources(&uri, folder.path())).unwrap_err().to_string();
        assert!(errors.contains(&format!("(from {as_path})")), "{errors}");
    }
}

fn in_checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `NAME=value` or `name = value`, out of a comment.
fn setting_line(line: &str) -> Option<&str> {
    let line = line.strip_prefix('#')?;
    let name = line.split(['=', ' ']).next()?;
    let known = ALL.iter().any(|setting| name.eq_ignore_ascii_case(setting.name));
    (known && line.contains('=')).then_some(line)
}

fn render_env() -> String {
    render(
        ENV_HEAD,
        |_| true,
        |setting| {
            let value = setting.default.unwrap_or_default();
            let bare = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./:%+-".contains(&b));
            let quote = if bare { "" } else { "'" };
            format!("{}={quote}{value}{quote}", setting.name)
        },
    )
}

fn render_toml() -> String {
    render(TOML_HEAD, in_toml, |setting| {
        let value = setting.default.unwrap_or_default();
        let bare = matches!(setting.kind, Kind::Number(..) | Kind::Flag);
        let quote = if bare { "" } else { "\"" };
        format!("{} = {quote}{value}{quote}", setting.name.to_lowercase())
    })
}

fn render(head: &str, which: fn(&Setting) -> bool, line: fn(&Setting) -> String) -> String {
    let mut text = comment(head);
    let mut group = "";
    for setting in ALL.iter().filter(|setting| which(setting)) {
        if setting.group != group {
            group = setting.group;
            write!(text, "\n# ---- {group} ----\n").unwrap();
        }
        text.push('\n');
        text += &comment(setting.help);
        text += &comment(&format!("Allowed: {}.", setting.allowed()));
        writeln!(text, "#{}", line(setting)).unwrap();
    }
    text
}

/// Text as comment lines, broken at spaces.
fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        if lines.last().unwrap().chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(String::from("#"));
        }
        let line = lines.last_mut().unwrap();
        *line = format!("{line} {word}");
    }
    lines.join("\n") + "\n"
}
