//! A run, one refresh-all over all accounts, as its document in `refresh_runs` shows it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use mongodb::bson::{Document as Bson, RawDocument, doc};

use super::field;
use crate::domain::outcome::{Outcome, Trigger};
use crate::domain::run::RunId;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Waits for the one before it.
    Queued,
    /// Its accounts are being refreshed.
    Running,
    /// All of them were.
    Done,
}

impl RunState {
    /// The name in documents and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
        }
    }

    fn read(name: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Done].into_iter().find(|it| it.as_str() == name)
    }
}

/// One refresh-all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its name.
    pub id: RunId,
    /// Who asked for it.
    pub trigger: Trigger,
    /// How far it is.
    pub state: RunState,
    /// Accounts refreshed after this are left out.
    pub cut_off: DateTime<Utc>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When the first account was looked at.
    pub started_at: Option<DateTime<Utc>>,
    /// When the last account was done.
    pub ended_at: Option<DateTime<Utc>>,
    /// The cron pattern's tick, for a scheduled run.
    pub tick: Option<DateTime<Utc>>,
    /// How many scheduled runs there have been, this one included.
    pub ordinal: Option<u64>,
    /// How often its accounts were walked before, because Redis lost some of its jobs.
    pub pass: u32,
    /// What came of it so far.
    pub counts: Counts,
}

/// A run's totals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that were made.
    pub jobs: u64,
    /// Accounts left out because they were refreshed after the cut-off.
    pub fresh: u64,
    /// How the jobs ended.
    pub outcomes: BTreeMap<Outcome, u64>,
}

impl Run {
    /// A run that waits.
    pub(super) fn queued(id: RunId, trigger: Trigger, now: DateTime<Utc>) -> Self {
        Self {
            id,
            trigger,
            state: RunState::Queued,
            cut_off: now,
            created_at: now,
            started_at: None,
            ended_at: None,
            tick: None,
            ordinal: None,
            pass: 0,
            counts: Counts::default(),
        }
    }

    /// `None`: not written by this daemon.
    pub(super) fn read(raw: &RawDocument) -> Option<Self> {
        let counts = field::document(raw, "counts").map(Counts::read).unwrap_or_default();
        Some(Self {
            id: field::text(raw, "_id")?.parse().ok()?,
            trigger: field::text(raw, "trigger")?.parse().ok()?,
            state: RunState::read(field::text(raw, "state")?)?,
            cut_off: field::time(raw, "cutOff")?,
            created_at: field::time(raw, "createdAt")?,
            started_at: field::time(raw, "startedAt"),
            ended_at: field::time(raw, "endedAt"),
            tick: field::time(raw, "tick"),
            ordinal: field::count(raw, "ordinal"),
            pass: field::count(raw, "pass").and_then(|n| n.try_into().ok()).unwrap_or_default(),
            counts,
        })
    }

    pub(super) fn to_bson(&self) -> Bson {
        let mut run = doc! {
            "_id": self.id.as_str(),
            "trigger": self.trigger.as_str(),
            "state": self.state.as_str(),
            "cutOff": field::date(self.cut_off),
            "createdAt": field::date(self.created_at),
            "startedAt": field::date_or_null(self.started_at),
            "endedAt": field::date_or_null(self.ended_at),
            "pass": field::whole(self.pass.into()),
            "counts": self.counts.to_bson(),
        };
        if let Some(tick) = self.tick {
            run.insert("tick", field::date(tick));
        }
        if let Some(ordinal) = self.ordinal {
            run.insert("ordinal", field::whole(ordinal));
        }
        run
    }
}

impl Counts {
    /// Accounts that hold a live session now.
    pub fn succeeded(&self) -> u64 {
        self.sum(Outcome::is_success)
    }

    /// Accounts that do not, as far as the run found out.
    pub fn failed(&self) -> u64 {
        self.sum(|outcome| !outcome.is_success())
    }

    fn sum(&self, which: impl Fn(Outcome) -> bool) -> u64 {
        self.outcomes.iter().filter(|(outcome, _)| which(**outcome)).map(|(_, n)| n).sum()
    }

    fn read(raw: &RawDocument) -> Self {
        let by_name = |outcomes: &RawDocument| {
            let pairs = Outcome::ALL.iter().copied();
            pairs.filter_map(|it| Some((it, field::count(outcomes, it.as_str())?))).collect()
        };
        Self {
            jobs: field::count(raw, "jobs").unwrap_or_default(),
            fresh: field::count(raw, "fresh").unwrap_or_default(),
            outcomes: field::document(raw, "outcomes").map(by_name).unwrap_or_default(),
        }
    }

    pub(super) fn to_bson(&self) -> Bson {
        let outcomes =
            self.outcomes.iter().map(|(it, n)| (it.as_str().to_owned(), field::whole(*n)));
        doc! {
            "jobs": field::whole(self.jobs),
            "fresh": field::whole(self.fresh),
            "outcomes": outcomes.collect::<Bson>(),
        }
    }
}
