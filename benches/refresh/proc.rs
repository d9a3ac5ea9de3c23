//! What the kernel tells of processes and of the machine (`/proc`).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// The kernel's unit of processor time, as Linux shows it to programs.
const TICK: Duration = Duration::from_millis(10);

/// The processor time, user and system, that a process has used so far: all its threads, those
/// that have ended, too. To ten milliseconds.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a process has ended")?;
    let (_, fields) = stat.rsplit_once(") ").context("fields")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u32>);
    let ticks = times.next().context("utime")?? + times.next().context("stime")??;
    Ok(TICK * ticks)
}

/// The same of each thread that lives, to the nanosecond.
pub(crate) fn thread_times(pid: u32) -> anyhow::Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("a process has ended")? {
        let thread = thread?;
        // One that has just ended has none.
        let Ok(stat) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let nanos = stat.split(' ').next().context("a time")?.parse()?;
        let name = thread.file_name().to_string_lossy().into_owned();
        times.insert(name, Duration::from_nanos(nanos));
    }
    Ok(times)
}

/// The most memory that a process has had resident so far, in megabytes (10⁶ bytes).
pub(crate) fn peak_rss(pid: u32) -> anyhow::Result<f64> {
    memory(pid, "VmHWM:")
}

/// What it has resident now.
pub(crate) fn rss(pid: u32) -> anyhow::Result<f64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    let kibibytes: u32 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kibibytes) * 1.024 / 1_000.0)
}

/// The whole machine's processor time so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// At work, for whomever.
    pub(crate) busy: Duration,
    /// At work, idle, and taken away by other machines on the same hardware.
    pub(crate) all: Duration,
    pub(crate) stolen: Duration,
}

/// What all processors have done so far.
pub(crate) fn machine() -> anyhow::Result<Machine> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("a line")?;
    let ticks: Result<Vec<u32>, _> = line.split_whitespace().skip(1).map(str::parse).collect();
    let ticks = ticks?;
    // user nice system idle iowait irq softirq steal; guests are part of user.
    let tick = |place: usize| TICK * ticks.get(place).copied().unwrap_or_default();
    let busy = [0, 1, 2, 5, 6].into_iter().map(tick).sum();
    Ok(Machine { busy, all: (0..8).map(tick).sum(), stolen: tick(7) })
}
