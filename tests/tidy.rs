//! The house rules that neither rustc nor clippy knows: which room may import which, where the
//! libraries with effects are named, and how files look (ARCHITECTURE.md). Needs no services.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// What every room of `src` may import of ours, besides itself. A new room needs a row.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("link", &["domain"]),
    // Addresses are read by whoever connects to them.
    ("config", &["domain", "link"]),
    ("logging", &["domain", "clock", "config"]),
    ("lifecycle", &["domain", "clock", "config"]),
    // The adapters, never each other.
    ("pds", &["domain", "clock", "config"]),
    ("queue", &["domain", "clock", "config", "link"]),
    ("budget", &["domain", "clock", "config", "link"]),
    ("bullmq", &["domain", "config", "link"]),
    ("store", &["domain", "clock", "config"]),
    ("journal", &["domain", "clock"]),
    ("events", &["domain", "store"]),
    // The use cases.
    ("posts", &["domain", "clock", "bullmq", "queue", "store", "events"]),
    ("requests", &["domain", "clock", "bullmq", "queue", "store", "events"]),
    // Whoever changes a pair, or hears of it, says so.
    ("refresh", &["domain", "clock", "pds", "budget", "store", "journal", "events", "posts"]),
    (
        "planner",
        &["domain", "clock", "config", "pds", "queue", "budget", "store", "events", "posts"],
    ),
    ("scheduler", &["domain", "clock", "config", "pds", "queue", "budget", "store", "events"]),
    ("worker", &["domain", "clock", "config", "queue", "refresh", "events", "store"]),
    ("capacity", &["domain", "budget", "store", "events"]),
    ("repair", &["domain", "queue", "refresh", "worker", "events"]),
    ("direct", &["domain", "budget", "link", "planner", "refresh", "store", "worker", "events"]),
    // The link's and the journal's health are part of the answer to `/readyz`.
    ("http", &["domain", "clock", "config", "link", "store", "queue", "journal", "events"]),
    // The composition.
    ("daemon", ANY),
    ("cli", ANY),
    ("main", ANY),
    ("lib", ANY),
];

/// Stands for every room.
const ANY: &[&str] = &["*"];

/// Crates, and modules of std, that only some rooms may name.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("redis", &["link", "queue", "budget", "bullmq"]),
    ("apalis", &["queue"]),
    ("apalis_core", &["queue"]),
    // The driver itself is asked whether `MONGODB_URI` is one.
    ("mongodb", &["store", "config"]),
    ("bson", &["store"]),
    ("reqwest", &["pds"]),
    ("std::env", &["config", "main"]),
];

/// Names that say nothing about what is behind the door.
const NO_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc"];

/// Folders of some machine or other.
const MACHINES: &[&str] = &["/home/", "/root/", "/Users/", "/tmp/"];

/// The most lines that a file may have.
const MOST_LINES: usize = 500;

/// A broken rule, and the line that breaks it.
type Broken = (usize, String);

/// Checks one file. `path` is below `src`, with slashes.
fn check(path: &str, text: &str) -> Vec<String> {
    let modules = modules(path);
    let room = modules.first().copied().unwrap_or_default();
    let code = without_comments(text);
    let mut broken = looks(&modules, text, &code);
    broken.extend(directions(room, modules.len(), &code));
    broken.extend(libraries(room, &code));
    broken.iter().map(|(line, rule)| format!("src/{path}:{line}: {rule}")).collect()
}

/// Door plate, length, names, and paths of machines.
fn looks(modules: &[&str], text: &str, code: &str) -> Vec<Broken> {
    let mut broken = Vec::new();
    if !text.starts_with("//! ") {
        broken.push((1, "a file opens with a `//!` line that says what it is for".to_owned()));
    }
    if text.lines().count() > MOST_LINES {
        broken.push((MOST_LINES + 1, format!("a file has at most {MOST_LINES} lines: split it")));
    }
    for name in NO_NAMES {
        let module = format!("mod {name}");
        let declared = code.match_indices(&module).map(|(at, _)| at);
        let whole = declared.filter(|at| !continues(code, at + module.len()));
        let own = modules.contains(name).then_some(1);
        let rule = format!("`{name}` is no name for a module: say what it is for");
        broken.extend(
            own.into_iter().chain(whole.map(|at| line(code, at))).map(|at| (at, rule.clone())),
        );
    }
    for machine in MACHINES {
        let paths = text.match_indices(machine).map(|(at, _)| at);
        let whole = paths.filter(|at| !code_before(text, *at).is_some_and(char::is_alphanumeric));
        broken.extend(
            whole.map(|at| (line(text, at), format!("`{machine}` is a path of one machine"))),
        );
    }
    broken
}

/// What a room reaches for that it may not.
fn directions(room: &str, depth: usize, code: &str) -> Vec<Broken> {
    let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![(
            1,
            format!("`{room}` has no row in ROOMS of tests/tidy.rs: say what it may import"),
        )];
    };
    if *may == ANY {
        return Vec::new();
    }
    imports(code, depth)
        .into_iter()
        .filter(|(_, name)| ROOMS.iter().any(|(room, _)| room == name))
        .filter(|(_, name)| *name != room && !may.contains(name))
        .map(|(at, name)| {
            (line(code, at), format!("`{room}` may not import `{name}`, only {may:?}"))
        })
        .collect()
}

/// Libraries that are named where they may not be.
fn libraries(room: &str, code: &str) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (library, rooms) in LIBRARIES {
        // A module of the file's own may have the same name.
        if rooms.contains(&room) || code.contains(&format!("mod {library};")) {
            continue;
        }
        let rule = format!("`{library}` is named in {rooms:?} only");
        broken.extend(named(code, library).map(|at| (line(code, at), rule.clone())));
    }
    broken
}

/// The modules that a file is: `pds/client.rs` and `pds/client/mod.rs` are `pds`, `client`.
fn modules(path: &str) -> Vec<&str> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    path.split('/').filter(|name| *name != "mod").collect()
}

/// The text with comments blanked out, so that offsets and lines stay.
fn without_comments(text: &str) -> String {
    let blank = |line: &str| {
        let comment = line.match_indices("//").map(|(at, _)| at).find(|at| {
            // `https://` in a string is no comment.
            code_before(line, *at) != Some(':')
        });
        let (code, comment) = line.split_at(comment.unwrap_or(line.len()));
        let blanks = |c: char| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) };
        format!("{code}{}", comment.chars().map(blanks).collect::<String>())
    };
    text.split_inclusive('\n').map(blank).collect()
}

/// The names at the crate's root that the code reaches for, with their offsets: `crate::name`,
/// `crate::{name, …}`, and `super::name` from `depth` modules down.
fn imports(code: &str, depth: usize) -> Vec<(usize, &str)> {
    let root = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", root.as_str()] {
        for (offset, _) in code.match_indices(prefix) {
            let before = code_before(code, offset);
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let rest = code.split_at(offset + prefix.len()).1;
            found.extend(first_names(rest).into_iter().map(|name| (offset, name)));
        }
    }
    found
}

/// The names that a path, or a group of paths in braces, begins with.
fn first_names(path: &str) -> Vec<&str> {
    let name = |path: &'_ str| path.find(|c: char| !c.is_alphanumeric() && c != '_');
    let Some(group) = path.strip_prefix('{') else {
        return vec![path.split_at(name(path).unwrap_or(path.len())).0];
    };
    let mut names = Vec::new();
    let (mut depth, mut fresh) = (1_usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                let rest = group.split_at(at).1;
                names.push(rest.split_at(name(rest).unwrap_or(rest.len())).0);
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

/// Where code names a library: as the start of a path, or whole in a `use`.
fn named<'a>(code: &'a str, library: &'a str) -> impl Iterator<Item = usize> + 'a {
    let paths = code.match_indices(library).filter_map(move |(offset, _)| {
        let end = offset + library.len();
        let before = code.split_at(offset).0;
        let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '.' | '-' | '"' | '>');
        // `use ::redis` starts a path, too.
        let before = before.strip_suffix("::").filter(|it| !it.ends_with(inner)).unwrap_or(before);
        let starts = !before.ends_with(inner);
        let after = code.split_at(end).1;
        let used = before.ends_with("use ");
        let path = after.starts_with("::") || used && !continues(code, end);
        (starts && path).then_some(offset)
    });
    // `use std::{env, fs}`.
    let grouped = library.split_once("::").into_iter().flat_map(move |(parent, child)| {
        let group = format!("{parent}::{{");
        let at: Vec<_> = code.match_indices(&group).map(|(at, _)| at).collect();
        at.into_iter()
            .filter(move |at| first_names(code.split_at(at + parent.len() + 2).1).contains(&child))
    });
    paths.chain(grouped)
}

fn code_before(text: &str, offset: usize) -> Option<char> {
    text.split_at(offset).0.chars().next_back()
}

fn continues(code: &str, end: usize) -> bool {
    code.split_at(end).1.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn line(text: &str, offset: usize) -> usize {
    text.split_at(offset).0.matches('\n').count() + 1
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, into)?;
        } else if path.extension().is_some_and(|it| it == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[test]
fn the_house_is_tidy() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files).unwrap();
    files.sort();
    assert!(files.len() > 10, "only {} files below {}", files.len(), src.display());
    let broken: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
            check(&path, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(broken.is_empty(), "{} rules broken\n{}", broken.len(), broken.join("\n"));
}

/// A file that breaks a rule in its second line, or nowhere.
#[track_caller]
fn says(path: &str, code: &str, expected: Option<&str>) {
    let broken = check(path, &format!("//! A room.\n{code}\n"));
    match expected {
        None => assert!(broken.is_empty(), "{code}: {broken:?}"),
        Some(rule) => {
            assert_eq!(broken.len(), 1, "{code}: {broken:?}");
            let place = format!("src/{path}:2: ");
            assert!(broken.iter().all(|it| it.starts_with(&place)), "{broken:?}");
            assert!(broken.iter().all(|it| it.contains(rule)), "{broken:?}");
        }
    }
}

#[test]
fn imports_in_a_wrong_direction_are_found() {
    let store = Some("may not import `store`");
    for (path, code, expected) in [
        ("pds/mod.rs", "use crate::store::Store;", store),
        ("pds/mod.rs", "fn f(x: crate::store::Store) {}", store),
        ("pds/mod.rs", "use crate::{clock::Clock, store::{Store, Cas}};", store),
        ("pds/mod.rs", "use super::store::Store;", store),
        ("pds/call.rs", "use super::super::store::Store;", store),
        ("pds.rs", "use super::store::Store;", store),
        ("pds/call.rs", "use super::store::Store;", None),
        ("pds/mod.rs", "use crate::{clock::{self, store}};", None),
        ("pds/mod.rs", "/// As [`crate::store`] does. // crate::store", None),
        ("pds/mod.rs", "use crate::domain::routing::Routing; // like crate::store", None),
        ("store/mod.rs", "use crate::store::read::Cas;", None),
        ("domain/mod.rs", "use crate::clock::Clock;", Some("`domain` may not import `clock`")),
        ("clock.rs", "use crate::config::Config;", Some("may not import `config`")),
        ("config.rs", "use crate::clock::Clock;", Some("may not import `clock`")),
        ("link/mod.rs", "use crate::queue::Queue;", Some("may not import `queue`")),
        ("pds/mod.rs", "use crate::link::Link;", Some("may not import `link`")),
        ("store/mod.rs", "use crate::events;", Some("may not import `events`")),
        ("events.rs", "use crate::queue::Job;", Some("may not import `queue`")),
        ("refresh.rs", "use crate::worker;", Some("may not import `worker`")),
        ("worker.rs", "use crate::pds::Client;", Some("may not import `pds`")),
        ("http/mod.rs", "use crate::refresh::Refresher;", Some("may not import `refresh`")),
        ("daemon.rs", "use crate::{http, store, worker};", None),
        ("cli/check.rs", "use crate::store::Store;", None),
    ] {
        says(path, code, expected);
    }
}

#[test]
fn libraries_in_a_wrong_room_are_found() {
    for (path, code, expected) in [
        ("store/mod.rs", "use redis::Client;", Some("`redis` is named in")),
        ("planner/mod.rs", "let x = redis::cmd(\"PING\");", Some("`redis` is named in")),
        ("http/mod.rs", "use redis as r;", Some("`redis` is named in")),
        ("budget/mod.rs", "use redis::Client;", None),
        ("config/mod.rs", "mod redis; fn f() { redis::read() }", None),
        ("config.rs", "let url = \"redis://localhost\"; let redis = 1; redis.x();", None),
        ("worker.rs", "use apalis::prelude::*;", Some("`apalis` is named in")),
        ("worker.rs", "use ::apalis_core::task::Task;", Some("`apalis_core` is named in")),
        ("queue/backend.rs", "use apalis_core::task::Task;", None),
        ("http/mod.rs", "fn f(x: mongodb::Database) {}", Some("`mongodb` is named in")),
        ("domain/mod.rs", "use bson::doc;", Some("`bson` is named in")),
        ("store/mod.rs", "use mongodb::bson::doc;", None),
        ("http/mod.rs", "use reqwest::Client;", Some("`reqwest` is named in")),
        ("pds/mod.rs", "use reqwest::Client;", None),
        ("cli/mod.rs", "let x = std::env::args();", Some("`std::env` is named in")),
        ("cli/mod.rs", "use std::env;", Some("`std::env` is named in")),
        ("cli/mod.rs", "use std::{env, fs};", Some("`std::env` is named in")),
        ("cli/mod.rs", "use std::{fs, io::env};", None),
        ("config/read.rs", "use std::env;", None),
        ("cli/mod.rs", "let x = env!(\"CARGO_PKG_VERSION\");", None),
    ] {
        says(path, code, expected);
    }
}

#[test]
fn bad_names_and_paths_are_found() {
    for (path, code, expected) in [
        ("pds/mod.rs", "mod util;", Some("`util` is no name")),
        ("pds/mod.rs", "pub(crate) mod common {", Some("`common` is no name")),
        ("pds/mod.rs", "mod commons;", None),
        ("pds/mod.rs", "let x = \"/home/me/x\";", Some("a path of one machine")),
        ("pds/mod.rs", "// see /home/x", Some("a path of one machine")),
        ("pds/mod.rs", "// see https://a.example/x/home/y", None),
    ] {
        says(path, code, expected);
    }
    let named = check("pds/helpers.rs", "//! Helps.\n");
    assert!(named.len() == 1 && named[0].contains("`helpers` is no name"), "{named:?}");
    let unknown = check("attic.rs", "//! Things.\n");
    assert!(unknown.len() == 1 && unknown[0].contains("no row in ROOMS"), "{unknown:?}");
}

#[test]
fn files_without_a_door_plate_or_an_end_are_found() {
    let bare = check("clock.rs", "use x;\n");
    assert!(bare.len() == 1 && bare[0].starts_with("src/clock.rs:1: a file opens"), "{bare:?}");
    let text = |lines: usize| format!("//! Long.\n{}", "\n".repeat(lines - 1));
    assert!(check("clock.rs", &text(MOST_LINES)).is_empty());
    let long = check("clock.rs", &text(MOST_LINES + 1));
    assert!(long.len() == 1 && long[0].contains("at most 500 lines"), "{long:?}");
}

#[test]
fn every_name_in_the_tables_is_a_room() {
    let known = |name: &&str| *name == "*" || ROOMS.iter().any(|(room, _)| room == name);
    for (room, may) in ROOMS.iter().chain(LIBRARIES) {
        assert!(may.iter().all(&known), "the row of `{room}` names no room");
    }
}
