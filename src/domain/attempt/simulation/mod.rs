//! Attempts, the posting application and a server, interleaved at every step by a seed.
//!
//! A failing seed is printed with its story and replays. [`Sabotage`] breaks the code on purpose:
//! each way has to be noticed.

mod application;
mod claims;
mod instance;
mod world;

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use self::claims::Claim;
use self::world::{Fields, GRACE, Sabotage, Server};
use super::{Action, Attempt, Event, Expected, Save};
use crate::domain::account::{Bookkeeping, StoredToken};
use crate::domain::decide::Policy;
use crate::domain::identity::AccountId;
use crate::domain::pending::Pending;
use crate::domain::renewal::Lead;
use crate::domain::routing::Routing;
use crate::domain::session::RefreshJwt;

const START: i64 = 1_780_000_000;
const POLICY: Policy = Policy {
    confirm_after: Duration::from_mins(10),
    suspect: false,
    lead: Some(Lead::Share(0.25)),
};

/// A server that has forgotten its sessions remembers them within this, in seconds: before any
/// second hearing.
const AMNESIA: i64 = 300;

/// What may go wrong in a story, a bit of `World::allowed` each.
mod trouble {
    pub(super) const GRACE_ENDS: u32 = 0;
    pub(super) const CRASH: u32 = 1;
    pub(super) const NO_BUDGET: u32 = 2;
    pub(super) const NO_CONNECTION: u32 = 3;
    pub(super) const REPLY_LOST: u32 = 4;
    pub(super) const WRITE_UNSEEN: u32 = 5;
    // From 6 to 15: the application's deeds.
    pub(super) const ROTATED_UNSAVED: u32 = 16;
    pub(super) const NO_INTENT: u32 = 17;
    pub(super) const NOT_KEPT: u32 = 18;
    pub(super) const AMNESIA: u32 = 19;
    pub(super) const SUSPECT: u32 = 20;
    pub(super) const OUT_OF_REACH: u32 = 21;
    pub(super) const REQUEST_LOST: u32 = 22;
    /// Of the writes that went together not all matched; which is not said.
    pub(super) const COMPANION_MISSED: u32 = 23;
    /// A write is given up by its writer, and carried out later all the same, or never.
    pub(super) const WRITE_LATE: u32 = 24;

    /// All that it takes for an entry to grow old before its call spends, which is rare otherwise.
    pub(super) const OLD_ENTRIES: u32 =
        1 << GRACE_ENDS | 1 << NO_BUDGET | 1 << REQUEST_LOST | 1 << REPLY_LOST;
}

/// An instance of the daemon, in the middle of an attempt.
#[derive(Debug)]
struct Instance<'a> {
    attempt: Attempt<'a>,
    action: Action,
    /// A write matched nothing; the document is read next.
    missed: bool,
    used: Option<RefreshJwt>,
    /// When its call was put into the journal.
    intended: i64,
    /// An answer that is neither stored nor dropped yet.
    held: Option<RefreshJwt>,
    /// It has gone through the journal, as far as the attempt knows.
    kept: bool,
    /// What the document has held since the attempt began.
    seen: Vec<RefreshJwt>,
}

struct World<'a> {
    rng: StdRng,
    sabotage: Sabotage,
    routing: &'a Routing,
    id: AccountId,
    now: i64,
    server: Server,
    document: Option<Fields>,
    /// Every token that was ever stored, for whoever writes an old one back.
    history: Vec<RefreshJwt>,
    instances: [Option<Instance<'a>>; 2],
    /// What stands on each instance's disk.
    journals: [Option<Pending>; 2],
    /// Writes that nobody waits for any more, each with the token that was used for it.
    on_their_way: Vec<(Save, Option<RefreshJwt>)>,
    /// The link that each instance spent last, and when.
    spent: [Option<(String, i64)>; 2],
    /// The server has forgotten its sessions until then.
    amnesia: i64,
    grace: i64,
    /// Steps of instances so far, and at which one the instance crashes.
    steps: usize,
    crash_at: Option<usize>,
    /// What may happen in this story, a bit each.
    allowed: u32,
    written_back: bool,
    /// A reply never reached a journal: the token that is stored may be spent, until the call is
    /// repaired.
    reply_lost: bool,
    /// The application spent the stored token and saved nothing, of which no journal knows.
    lossy: bool,
    story: Vec<String>,
}

impl<'a> World<'a> {
    fn new(seed: u64, routing: &'a Routing, sabotage: Sabotage) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut allowed = rng.random::<u32>() & rng.random::<u32>();
        if sabotage == Sabotage::NeverYounger {
            allowed = trouble::OLD_ENTRIES;
        }
        let grace = if rng.random_bool(0.5) { GRACE } else { 0 };
        let mut server = Server::new(grace);
        let first = server.login(START);
        let kept = Bookkeeping {
            refreshed_at: rng.random_bool(0.5).then_some(DateTime::UNIX_EPOCH),
            ..Bookkeeping::default()
        };
        let token = StoredToken::Token(first.clone());
        Self {
            rng,
            sabotage,
            routing,
            id: AccountId::from_bytes([7; 12]),
            now: START,
            server,
            document: Some(Fields { token, status: "active", kept }),
            history: vec![first],
            instances: [None, None],
            journals: [None, None],
            on_their_way: Vec::new(),
            spent: [None, None],
            amnesia: START,
            grace,
            steps: 0,
            crash_at: None,
            allowed,
            written_back: false,
            reply_lost: false,
            lossy: false,
            story: Vec::new(),
        }
    }

    fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.now, 0).unwrap()
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        self.story.push(format!("{:>6} {}", self.now - START, line()));
    }

    /// Whether this kind of trouble may happen in this story, and does now.
    fn happens(&mut self, kind: u32, chance: f64) -> bool {
        self.allowed & (1 << kind) != 0 && self.rng.random_bool(chance)
    }

    /// Plays one story to its end.
    fn play(&mut self) -> Claim {
        let steps = self.rng.random_range(10..60);
        for _ in 0..steps {
            self.now += self.rng.random_range(1..20);
            if self.happens(trouble::GRACE_ENDS, 0.05) {
                self.now += self.rng.random_range(1..3) * (GRACE + 60);
                self.tell(|| "the grace is over".to_owned());
            }
            if self.amnesia == START && self.happens(trouble::AMNESIA, 0.1) {
                self.amnesia = self.now + AMNESIA;
                self.tell(|| "the server forgets its sessions".to_owned());
            }
            if !self.on_their_way.is_empty() && self.rng.random_bool(0.2) {
                self.arrive()?;
            }
            match self.rng.random_range(0..10) {
                0..4 => self.step(0)?,
                4..8 => self.step(1)?,
                _ => self.application(),
            }
        }
        self.finish_all()?;
        // A server that had forgotten its sessions said no to repairs, too, and they were over; as they
        // are for who has disconnected.
        let is_ours = self.document.as_ref().is_some_and(Fields::is_ours);
        let is_repaired = is_ours && self.now - START < self.grace && self.amnesia == START;
        if !self.lossy && !self.written_back && (is_repaired || !self.reply_lost) {
            claims::quiet_end(self.document.as_ref(), &self.server)?;
        }
        if self.now - START < self.grace {
            self.heal()?;
        }
        Ok(())
    }

    /// Lets all that is under way, and all that the journals hold, come to its end.
    fn finish_all(&mut self) -> Claim {
        self.allowed = 0;
        self.crash_at = None;
        self.amnesia = self.amnesia.min(self.now);
        while !self.on_their_way.is_empty() {
            self.arrive()?;
        }
        for _ in 0..100 {
            let is_idle =
                |index: &usize| self.instances[*index].is_none() && self.journals[*index].is_none();
            if (0..2).all(|index| is_idle(&index)) {
                return Ok(());
            }
            self.now += 1;
            for index in 0..2 {
                if self.instances[index].is_some() || self.journals[index].is_some() {
                    self.step(index)?;
                }
            }
        }
        Err("an attempt that nothing disturbs does not end".to_owned())
    }

    fn heal(&mut self) -> Claim {
        for _ in 0..30 {
            let token = self.document.as_ref().and_then(Fields::token);
            if token.is_some_and(|token| !self.server.is_unspent(token)) || self.is_marked() {
                self.step(0)?;
                self.finish_all()?;
            }
        }
        claims::healed_end(self.document.as_ref(), &self.server)
    }

    fn is_marked(&self) -> bool {
        self.document.as_ref().is_some_and(|fields| fields.is_ours() && fields.status != "active")
    }
}

type Broken = (String, Vec<String>);

/// Plays one story; answers how many steps the instances made.
fn play(
    seed: u64,
    routing: &Routing,
    sabotage: Sabotage,
    crash_at: Option<usize>,
) -> Result<usize, Broken> {
    let mut world = World::new(seed, routing, sabotage);
    if crash_at.is_some() {
        world.crash_at = crash_at;
        world.allowed &= !(1 << trouble::CRASH);
    }
    let played = world.play();
    played.map(|()| world.steps).map_err(|broken| (broken, world.story))
}

fn routing() -> Routing {
    Routing::new("https://pds.example".parse().unwrap(), true, false)
}

#[track_caller]
fn holds(seed: u64, routing: &Routing, crash_at: Option<usize>) -> usize {
    match play(seed, routing, Sabotage::None, crash_at) {
        Ok(steps) => steps,
        Err((broken, story)) => {
            panic!("seed {seed}, crash at {crash_at:?}: {broken}\n{}", story.join("\n"))
        }
    }
}

#[test]
fn no_interleaving_breaks_an_invariant() {
    let routing = routing();
    for seed in 0..30_000 {
        holds(seed, &routing, None);
    }
}

#[test]
fn no_crash_at_any_step_breaks_an_invariant() {
    let routing = routing();
    for seed in 0..1_000 {
        let mut step = 1;
        while holds(seed, &routing, Some(step)) >= step {
            step += 1;
        }
    }
}

#[test]
fn every_sabotage_is_noticed() {
    let routing = routing();
    for (sabotage, claim) in [
        (Sabotage::NoClassFilter, "a disconnected account was revived"),
        (Sabotage::Unconditional, "overwritten by an older link"),
        (Sabotage::Unconditional, "a pair was written over a token that is gone"),
        (Sabotage::IgnoreMisses, "an answer left the journal before it was stored"),
        (Sabotage::ByAnswersAge, "overwritten by an older link"),
        (Sabotage::GiveUp, "a newer link was dropped"),
        (Sabotage::StoreFirst, "the stored token is spent at the end"),
        (Sabotage::BelieveAtOnce, "a live session was condemned"),
        (Sabotage::NoReread, "a call with a token that the document had moved on from"),
        (Sabotage::NeverYounger, "an entry ended within the grace of its call"),
        (Sabotage::ReleaseEarly, "the stored token is spent at the end"),
        (Sabotage::ForgetCall, "the stored token is spent at the end"),
    ] {
        let noticed = (0..30_000).any(|seed| {
            play(seed, &routing, sabotage, None).is_err_and(|(broken, _)| broken == claim)
        });
        assert!(noticed, "{sabotage:?} went unnoticed: {claim}");
    }
}
