//! The systemd unit, judged by systemd.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::shipped;

/// Tenths of what `systemd-analyze security` calls exposure: from 0 (locked up) to 100.
const MOST_EXPOSURE: &str = "15";

/// The unit as it is shipped, but starting the program under test.
fn unit() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("refreshd.service");
    let text = text().replace("/usr/local/bin/refreshd", crate::binary());
    std::fs::write(&path, text).expect("a unit");
    (folder, path)
}

fn text() -> String {
    std::fs::read_to_string(shipped("systemd/refreshd.service")).expect("the unit")
}

fn analyze(arguments: &[&str]) -> Output {
    let (_folder, path) = unit();
    Command::new("systemd-analyze").args(arguments).arg(path).output().unwrap_or_else(|error| {
        panic!("cannot run systemd-analyze: {error}; run scripts/setup systemd-analyze")
    })
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// The last value of a key in a section, as systemd takes it.
fn value(section: &str, key: &str) -> String {
    let mut here = String::new();
    let mut found = None;
    for line in text().lines().map(str::trim) {
        if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut here);
        } else if let Some((name, value)) = line.split_once('=')
            && (here.as_str(), name) == (section, key)
        {
            found = Some(value.to_owned());
        }
    }
    found.unwrap_or_else(|| panic!("[{section}] has no {key}"))
}

fn seconds(key: &str) -> u64 {
    value("Service", key).parse().expect("seconds")
}

#[test]
fn systemd_understands_the_unit() {
    let output = analyze(&["verify"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "", "without a warning");
}

#[test]
fn the_unit_is_locked_up() {
    let threshold = format!("--threshold={MOST_EXPOSURE}");
    let output = analyze(&["security", "--offline=true", "--no-pager", &threshold]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("Overall exposure level"), "it was judged");
}

#[test]
fn it_is_started_again_but_not_when_that_cannot_help() {
    // Not Restart=always: 0 is a stop that somebody wanted.
    assert_eq!(value("Service", "Restart"), "on-failure");
    assert_eq!(value("Service", "RestartPreventExitStatus"), "64 78");
    assert_eq!(value("Unit", "StartLimitIntervalSec"), "0", "however long an outage lasts");
    assert!(!text().contains("\nSuccessExitStatus="), "69 and 75 are failures");
    assert_eq!(value("Service", "Type"), "notify");
}

#[test]
fn it_waits_longer_than_the_daemon_does() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example");
    let example = std::fs::read_to_string(example).expect(".env.example");
    for (name, key) in
        [("STARTUP_TIMEOUT", "TimeoutStartSec"), ("SHUTDOWN_TIMEOUT", "TimeoutStopSec")]
    {
        let default = example
            .lines()
            .find_map(|line| {
                line.trim_start_matches(['#', ' ']).strip_prefix(name)?.strip_prefix('=')
            })
            .unwrap_or_else(|| panic!("{name} in .env.example"));
        let default: u64 = default.trim_end_matches('s').parse().expect("seconds");
        // The end of a drain whose Redis is away takes up to 15 s more (`LAST_WORDS`, three times).
        assert!(seconds(key) > default + 15, "{key} is longer than {name}={default}s");
    }
}
