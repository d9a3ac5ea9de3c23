//! What a piece of work has cost: the difference of two readings of everybody's counters.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use mongodb::bson::{Bson, Document, doc};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::bed::Bed;
use crate::figures::Figures;
use crate::proc::{self, Machine};

/// Commands of MongoDB that drivers and this meter send by themselves.
const NOT_WORK: [&str; 4] = ["hello", "isMaster", "ping", "serverStatus"];

/// Reads the counters of one process and of what it works with.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    bed: &'a Bed,
    redis: MultiplexedConnection,
    pid: u32,
}

/// All counters at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    at: Instant,
    /// The process that is measured, the scripted server, mongod, redis-server and this one.
    cpu: [Duration; 5],
    machine: Machine,
    redis: RedisCounts,
    mongo: MongoCounts,
}

#[derive(Debug, Clone, Copy)]
struct RedisCounts {
    /// Reads from clients: a pipeline is one, a blocking read is one.
    trips: f64,
    /// Commands, also those that scripts run.
    commands: f64,
    cpu_seconds: f64,
}

/// By command.
#[derive(Debug, Clone)]
struct MongoCounts {
    commands: BTreeMap<String, f64>,
    /// A command that writes can carry many.
    statements: f64,
}

impl<'a> Meter<'a> {
    /// Of this process.
    pub(crate) async fn new(bed: &'a Bed, pid: u32) -> anyhow::Result<Self> {
        Ok(Self { bed, redis: bed.redis_connection().await?, pid })
    }

    /// Everybody's counters now. Costs Redis and MongoDB one command each, which is not counted.
    pub(crate) async fn read(&self) -> anyhow::Result<Reading> {
        let redis = self.redis().await?;
        let mongo = self.mongo().await?;
        let pids = [
            self.pid,
            self.bed.server.pid()?,
            self.bed.world.mongo.pid(0),
            self.bed.world.redis.pid(),
            std::process::id(),
        ];
        let mut cpu = [Duration::ZERO; 5];
        for (time, pid) in cpu.iter_mut().zip(pids) {
            *time = proc::cpu(pid)?;
        }
        Ok(Reading { at: Instant::now(), cpu, machine: proc::machine()?, redis, mongo })
    }

    async fn redis(&self) -> anyhow::Result<RedisCounts> {
        let mut connection = self.redis.clone();
        let info: String = redis::cmd("INFO").arg("all").query_async(&mut connection).await?;
        let fields: BTreeMap<_, _> =
            info.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let number = |name: &str| -> anyhow::Result<f64> {
            let text = fields.get(name).with_context(|| format!("Redis does not tell {name}"))?;
            Ok(text.parse()?)
        };
        Ok(RedisCounts {
            trips: number("total_reads_processed")?,
            commands: number("total_commands_processed")?,
            cpu_seconds: number("used_cpu_sys")? + number("used_cpu_user")?,
        })
    }

    async fn mongo(&self) -> anyhow::Result<MongoCounts> {
        let wanted =
            doc! { "serverStatus": 1, "repl": 0, "locks": 0, "wiredTiger": 0, "tcmalloc": 0 };
        let status = self.bed.world.database().run_command(wanted).await?;
        let counted = status.get_document("metrics")?.get_document("commands")?;
        let commands = counted.iter().filter_map(|(name, counts)| {
            Some((name.clone(), number(counts.as_document()?.get("total")?)))
        });
        let statements = total(status.get_document("opcounters")?, |name| name != "command");
        Ok(MongoCounts { commands: commands.collect(), statements })
    }
}

impl Reading {
    /// Time since another reading.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        self.at - earlier.at
    }

    /// What so many refreshes have cost between two readings.
    pub(crate) fn figures(&self, earlier: &Self, refreshes: u64) -> Figures {
        let count = refreshes as f64;
        let seconds = self.since(earlier).as_secs_f64();
        let [process, server, mongod, redis, own] =
            std::array::from_fn(|at| used(self.cpu.get(at), earlier.cpu.get(at)));
        let whole = self.machine.all.saturating_sub(earlier.machine.all).as_secs_f64();
        let busy = self.machine.busy.saturating_sub(earlier.machine.busy).as_secs_f64();
        let stolen = self.machine.stolen.saturating_sub(earlier.machine.stolen).as_secs_f64();
        let ours: f64 = [process, server, mongod, redis, own].iter().sum();
        let share = |seconds: f64| if whole > 0.0 { seconds.max(0.0) / whole * 100.0 } else { 0.0 };
        Figures::from_iter([
            ("cpu_us", process * 1e6 / count),
            ("per_second", count / seconds),
            ("seconds", seconds),
            ("redis_trips", self.redis_trips(earlier) / count),
            ("redis_commands", self.redis_commands(earlier) / count),
            ("redis_cpu_us", (self.redis.cpu_seconds - earlier.redis.cpu_seconds) * 1e6 / count),
            ("mongo_commands", self.mongo_commands(earlier) / count),
            ("mongo_statements", (self.mongo.statements - earlier.mongo.statements) / count),
            ("mongo_cpu_us", mongod * 1e6 / count),
            ("pds_cpu_us", server * 1e6 / count),
            ("others_percent", share(busy - ours)),
            ("stolen_percent", share(stolen)),
        ])
    }

    /// Reads that Redis served, less the meter's own.
    pub(crate) fn redis_trips(&self, earlier: &Self) -> f64 {
        self.redis.trips - earlier.redis.trips - 1.0
    }

    /// Commands that Redis ran, those of scripts, too, less the meter's own.
    pub(crate) fn redis_commands(&self, earlier: &Self) -> f64 {
        self.redis.commands - earlier.redis.commands - 1.0
    }

    /// Commands that MongoDB was sent for the work itself.
    pub(crate) fn mongo_commands(&self, earlier: &Self) -> f64 {
        let since = |name: &String, count: &f64| {
            count - earlier.mongo.commands.get(name).copied().unwrap_or_default()
        };
        let work =
            self.mongo.commands.iter().filter(|(name, _)| !NOT_WORK.contains(&name.as_str()));
        work.map(|(name, count)| since(name, count)).sum()
    }

    /// Greetings, with which drivers watch the server; this program's own are among them.
    pub(crate) fn mongo_greetings(&self, earlier: &Self) -> f64 {
        let count = |reading: &Self| -> f64 {
            let greetings = ["hello", "isMaster"];
            greetings.iter().filter_map(|name| reading.mongo.commands.get(*name)).sum()
        };
        count(self) - count(earlier)
    }
}

fn used(now: Option<&Duration>, before: Option<&Duration>) -> f64 {
    let time = |it: Option<&Duration>| it.copied().unwrap_or_default().as_secs_f64();
    time(now) - time(before)
}

fn total(counts: &Document, which: impl Fn(&str) -> bool) -> f64 {
    let counted = counts.iter().filter(|(name, _)| which(name));
    counted.map(|(_, count)| number(count)).sum()
}

fn number(value: &Bson) -> f64 {
    match value {
        Bson::Int32(number) => f64::from(*number),
        Bson::Int64(number) => *number as f64,
        Bson::Double(number) => *number,
        _ => 0.0,
    }
}
