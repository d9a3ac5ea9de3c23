//! Attempts, the posting application and a server, interleaved at every step by a seed.
//!
//! A failing seed is printed with its story and replays. [`Sabotage`] breaks the code on purpose:
//! each way has to be noticed.

mod claims;
mod world;

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use self::claims::Claim;
use self::world::{Fields, GRACE, Sabotage, Server};
use super::{Action, Attempt, Event, Expected, Save};
use crate::domain::account::{Bookkeeping, Document, StoredToken};
use crate::domain::answer::Answer;
use crate::domain::decide::Policy;
use crate::domain::identity::AccountId;
use crate::domain::routing::Routing;
use crate::domain::session::RefreshJwt;

const START: i64 = 1_780_000_000;
const POLICY: Policy = Policy { confirm_after: Duration::from_mins(10) };

/// An instance of the daemon, in the middle of an attempt.
#[derive(Debug)]
struct Instance<'a> {
    attempt: Attempt<'a>,
    action: Action,
    /// A write matched nothing; the document is read next.
    missed: bool,
    used: Option<RefreshJwt>,
    /// An answer that is neither stored nor dropped yet.
    held: Option<RefreshJwt>,
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
    /// What may happen in this story, a bit each.
    allowed: u32,
    written_back: bool,
    /// Replies were lost, rotations not saved, instances crashed: a spent token may be stored.
    lossy: bool,
    story: Vec<String>,
}

impl<'a> World<'a> {
    fn new(seed: u64, routing: &'a Routing, sabotage: Sabotage) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let allowed = rng.random::<u32>() & rng.random::<u32>();
        let mut server = Server::new();
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
            allowed,
            written_back: false,
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
            if self.happens(0, 0.05) {
                self.now += GRACE + 60;
                self.tell(|| "the grace is over".to_owned());
            }
            match self.rng.random_range(0..10) {
                0..4 => self.step(0)?,
                4..8 => self.step(1)?,
                _ => self.application(),
            }
        }
        self.finish_all()?;
        if !self.lossy && !self.written_back {
            claims::quiet_end(self.document.as_ref(), &self.server)?;
        }
        if self.now - START < GRACE {
            self.heal()?;
        }
        Ok(())
    }

    fn finish_all(&mut self) -> Claim {
        self.allowed = 0;
        for _ in 0..100 {
            if self.instances.iter().all(Option::is_none) {
                return Ok(());
            }
            self.now += 1;
            for index in 0..2 {
                if self.instances[index].is_some() {
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

    /// One step of one instance: it does what its attempt asks for, and no more.
    fn step(&mut self, index: usize) -> Claim {
        let Some(mut instance) = self.instances[index].take() else {
            self.tell(|| format!("{index} begins"));
            self.instances[index] = Some(Instance::begin(self.routing, self.id));
            return Ok(());
        };
        if self.happens(1, 0.03) {
            self.lossy = true;
            self.tell(|| format!("{index} crashes"));
            return Ok(());
        }
        let event = match &instance.action {
            Action::Load => Some(Event::Loaded(self.read())),
            Action::Spend(_) if self.happens(2, 0.1) => Some(Event::Denied(Duration::from_secs(5))),
            Action::Spend(_) => Some(Event::Granted),
            Action::Call(_, token) => {
                let token = token.clone();
                let answer = self.call(index, &token);
                if let Answer::Session(session) = &answer {
                    instance.held = Some(session.pair.refresh.clone());
                }
                instance.used = Some(token);
                Some(Event::Answered(answer))
            }
            Action::Save(save) => {
                let save = (**save).clone();
                self.save(index, &save, &mut instance)?
            }
            Action::Finish(report) => {
                self.tell(|| format!("{index} ends: {}", report.outcome));
                let forgotten = instance.held.is_some();
                return if forgotten { Err("an answer was forgotten".to_owned()) } else { Ok(()) };
            }
        };
        if let Some(event) = event {
            self.react(index, &mut instance, event)?;
        }
        self.instances[index] = Some(instance);
        Ok(())
    }

    /// Lets the attempt decide, and holds it to what it drops.
    fn react(&mut self, index: usize, instance: &mut Instance<'a>, event: Event) -> Claim {
        let missed = matches!(event, Event::Missed(_));
        let draw = self.rng.random();
        instance.action = instance.attempt.step(event, self.time(), draw);
        let goes_on =
            matches!(&instance.action, Action::Save(save) if save.change.rotation.is_some());
        if missed
            && !goes_on
            && let Some(answered) = instance.held.take()
        {
            self.tell(|| format!("{index} drops {}", answered.jti()));
            let document = self.document.as_ref();
            return claims::dropped(&answered, document, &self.server, self.written_back);
        }
        Ok(())
    }

    fn read(&self) -> Option<Document> {
        self.document.as_ref().map(|fields| fields.read(self.id))
    }

    fn call(&mut self, index: usize, token: &RefreshJwt) -> Answer {
        if self.happens(3, 0.1) {
            self.tell(|| format!("{index} calls with {}: unreachable", token.jti()));
            return Answer::Unreachable("connection refused".to_owned());
        }
        let answer = self.server.refresh(token, self.now);
        if self.happens(4, 0.1) {
            self.lossy = true;
            self.tell(|| format!("{index} calls with {}: the reply is lost", token.jti()));
            return Answer::Unreachable("timed out".to_owned());
        }
        self.tell(|| match &answer {
            Answer::Session(session) => {
                format!("{index} calls with {}: {}", token.jti(), session.pair.refresh.jti())
            }
            other => format!("{index} calls with {}: {other:?}", token.jti()),
        });
        answer
    }

    /// A write, or the reading after its miss. `None`: the shell does not know yet how it went.
    fn save(
        &mut self,
        index: usize,
        save: &Save,
        instance: &mut Instance<'a>,
    ) -> Result<Option<Event>, String> {
        if std::mem::take(&mut instance.missed) {
            return self.reread(save, instance).map(Some);
        }
        let what = save.change.rotation.as_ref().map_or("a note", |it| it.pair.refresh.jti());
        if !self.document.as_ref().is_some_and(|fields| fields.matches(save, self.sabotage)) {
            self.tell(|| format!("{index} writes {what}: misses"));
            if self.sabotage == Sabotage::IgnoreMisses {
                return Ok(Some(Event::Saved));
            }
            instance.missed = true;
            return Ok(None);
        }
        self.tell(|| format!("{index} writes {what}"));
        self.apply(save, instance)?;
        if self.happens(5, 0.2) {
            self.tell(|| format!("{index} does not hear of it"));
            return Ok(None);
        }
        Ok(Some(Event::Saved))
    }

    fn apply(&mut self, save: &Save, instance: &mut Instance<'a>) -> Claim {
        let Some(before) = self.document.clone() else { return Ok(()) };
        let mut after = before.clone();
        after.apply(save);
        let around = (&self.server, self.now, self.written_back);
        claims::write((&before, &after), save, instance.used.as_ref(), around)?;
        if let Some(rotation) = &save.change.rotation {
            instance.held = None;
            self.history.push(rotation.pair.refresh.clone());
        }
        self.document = Some(after);
        Ok(())
    }

    fn reread(&mut self, save: &Save, instance: &mut Instance<'a>) -> Result<Event, String> {
        let document = self.read();
        if self.sabotage == Sabotage::GiveUp {
            return Ok(Event::Missed(None));
        }
        if self.sabotage == Sabotage::ByAnswersAge
            && let Some(rotation) = &save.change.rotation
            && let Some(stored) = self.document.as_ref().and_then(Fields::token)
            && stored.issued_at() < rotation.pair.refresh.issued_at()
            && let Some(expected) = document.as_ref().and_then(Expected::of)
        {
            self.apply(&Save { expected, ..save.clone() }, instance)?;
            return Ok(Event::Saved);
        }
        Ok(Event::Missed(document))
    }

    /// The posting application, or the account's owner, does something to the document.
    fn application(&mut self) {
        let deed = self.rng.random_range(6..16);
        if self.allowed & (1 << deed) == 0 {
            return;
        }
        let Some(mut fields) = self.document.take() else {
            // A new account of the same person, which only a login makes.
            return self.log_in();
        };
        match deed {
            6 | 7 => self.rotate(&mut fields),
            8 => {
                let old = self.rng.random_range(0..self.history.len());
                if fields.token().is_some() {
                    self.written_back = true;
                    fields.token = StoredToken::Token(self.history[old].clone());
                    self.tell(|| {
                        format!(
                            "the application writes back {:?}",
                            fields.token().map(RefreshJwt::jti)
                        )
                    });
                }
            }
            9 => fields.status = "inactive",
            10 => {
                fields.token = StoredToken::Null;
                fields.status = "inactive";
            }
            11 => fields.token = StoredToken::Null,
            12 => fields.status = "error",
            13 => fields.token = StoredToken::Unreadable,
            14 => return self.log_in(),
            _ => {
                self.tell(|| "the document is deleted".to_owned());
                return;
            }
        }
        self.tell(|| {
            format!(
                "deed {deed}: status {}, token {:?}",
                fields.status,
                fields.token().map(RefreshJwt::jti)
            )
        });
        self.document = Some(fields);
    }

    fn log_in(&mut self) {
        let token = self.server.login(self.now);
        self.tell(|| format!("login: {}", token.jti()));
        self.history.push(token.clone());
        let (token, kept) = (StoredToken::Token(token), Bookkeeping::default());
        self.document = Some(Fields { token, status: "active", kept });
    }

    /// Posting refreshes the stored session, and may or may not save what it got.
    fn rotate(&mut self, fields: &mut Fields) {
        let Some(used) = fields.token().filter(|_| fields.is_ours()).cloned() else { return };
        let Answer::Session(session) = self.server.refresh(&used, self.now) else { return };
        if self.happens(16, 0.5) {
            self.lossy = true;
            self.tell(|| format!("the application uses {} and saves nothing", used.jti()));
            return;
        }
        self.history.push(session.pair.refresh.clone());
        fields.token = StoredToken::Token(session.pair.refresh);
    }
}

impl<'a> Instance<'a> {
    fn begin(routing: &'a Routing, id: AccountId) -> Self {
        let (attempt, action) = Attempt::begin(POLICY, routing, id, None);
        Self { attempt, action, missed: false, used: None, held: None }
    }
}

fn play(seed: u64, routing: &Routing, sabotage: Sabotage) -> Result<(), (String, Vec<String>)> {
    let mut world = World::new(seed, routing, sabotage);
    world.play().map_err(|broken| (broken, world.story))
}

fn routing() -> Routing {
    Routing::new("https://pds.example".parse().unwrap(), true, false)
}

#[test]
fn no_interleaving_breaks_an_invariant() {
    let routing = routing();
    for seed in 0..30_000 {
        if let Err((broken, story)) = play(seed, &routing, Sabotage::None) {
            panic!("seed {seed}: {broken}\n{}", story.join("\n"));
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
        (Sabotage::IgnoreMisses, "an answer was forgotten"),
        (Sabotage::ByAnswersAge, "overwritten by an older link"),
        (Sabotage::GiveUp, "a newer link was dropped"),
    ] {
        let noticed = (0..30_000)
            .any(|seed| play(seed, &routing, sabotage).is_err_and(|(broken, _)| broken == claim));
        assert!(noticed, "{sabotage:?} went unnoticed: {claim}");
    }
}
