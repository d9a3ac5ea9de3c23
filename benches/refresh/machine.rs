//! What the figures were measured on, and of.

use std::fs;
use std::path::Path;
use std::process::Command;

use refreshd::clock::Clock;
use serde::Serialize;

/// The machine, the day and the commit.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gb: f64,
    kernel: String,
    date: String,
    commit: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        Self {
            cpu: value_of("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: memory().unwrap_or_default(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_no_file| unknown(), |text| text.trim().to_owned()),
            date: Clock::system().now().format("%Y-%m-%d %H:%M UTC").to_string(),
            commit: commit().unwrap_or_else(unknown),
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let Self { cpu, cores, memory_gb, kernel, date, commit } = self;
        format!("{cpu}, {cores} cores, {memory_gb:.0} GB, Linux {kernel}; {date}; commit {commit}")
    }
}

/// The size of a program without its symbols, in megabytes; and whether they could be taken off.
pub(crate) fn size(program: &Path, scratch: &Path) -> anyhow::Result<(f64, bool)> {
    let stripped = Command::new("strip").arg("-s").arg("-o").arg(scratch).arg(program).status();
    let stripped = stripped.is_ok_and(|status| status.success());
    let bytes = fs::metadata(if stripped { scratch } else { program })?.len();
    Ok((bytes as f64 / 1e6, stripped))
}

fn value_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<f64> {
    let text = value_of("/proc/meminfo", "MemTotal")?;
    Some(f64::from(text.trim_end_matches(" kB").parse::<u32>().ok()?) * 1.024 / 1e6)
}

/// With a mark when something is changed that is not committed.
fn commit() -> Option<String> {
    let said = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = said(&["status", "--porcelain", "--untracked-files=no"])?;
    let mark = if changed.is_empty() { "" } else { " with changes" };
    Some(said(&["rev-parse", "--short=10", "HEAD"])? + mark)
}

fn unknown() -> String {
    "unknown".to_owned()
}
