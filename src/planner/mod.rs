//! Turns what is due in MongoDB into jobs: the accounts of a refresh-all, and retries.
//!
//! One planner acts at a time over all instances (the queue's leadership); what it has done stands
//! in MongoDB, so another goes on where it stopped, and a wiped Redis costs nothing but the way
//! back over accounts that are then found to be done.

mod appraiser;
mod choice;
mod due;
mod follow;
pub mod looks;
mod room;
mod sweep;
mod wakes;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::clock::Clock;
use crate::domain::renewal::Lead;
use crate::domain::routing::Routing;
use crate::events::Trouble;
use crate::posts::Posts;
use crate::queue::{Leadership, Queue, QueueError};
use crate::store::{Store, StoreError};

use due::Due;
use follow::Follower;
use room::{Allowed, Room};
pub use wakes::Wakes;
use walk::Walk;

/// While jobs wait for room, the meter is read this often at the latest.
const BUSY: Duration = Duration::from_millis(100);

/// A pass that jobs' ends ask for comes this long after the last at the earliest.
const BREATH: Duration = Duration::from_millis(10);

/// With nothing to do, runs are looked for this often, should a nudge have been lost.
const IDLE: Duration = Duration::from_secs(10);

/// How long a pass may go on after `stop`.
const LAST_PASS: Duration = Duration::from_secs(2);

/// A refresh-all has the first word in one pass of so many, of those in which there is room.
const RUNS_SHARE: u64 = 10;

/// Servers that are looked after.
const MOST_SERVERS: u32 = 100_000;

/// Why a pass could not be finished. The next one begins where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// MongoDB did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Redis did not.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Another instance plans, too: leadership has just changed hands.
    #[error("another instance has taken over the planning")]
    Overtaken,
}

/// How soon there is something to do again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// At once: only the size of a pass was reached.
    Now,
    /// When room is made.
    Room,
    /// When somebody asks, or this much later.
    After(Duration),
}

/// What the planner's parts work with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The truth.
    pub store: Store,
    /// Where jobs go.
    pub queue: Queue,
    /// Which servers are closed, and which give no usable answers.
    pub budget: Arc<Budget>,
    /// Which server an account belongs to.
    pub routing: Routing,
    /// `REFRESH_LEAD`; `None` with `KEEP_FRESH=false`.
    pub lead: Option<Lead>,
    /// Word of what is due soon.
    pub wakes: Wakes,
    /// Who is told that an account has another pair.
    pub posts: Posts,
    /// The time.
    pub clock: Clock,
}

/// The planner of one instance; it sleeps while another's leads.
#[derive(Debug)]
pub struct Planner {
    parts: Parts,
    room: Room,
    walk: Walk,
    due: Due,
    /// How many made jobs of what was due since a run last came first.
    passes: u64,
    measured: Instant,
    held_up: Trouble,
}

impl Planner {
    /// A planner over the given parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            room: Room::new(None),
            passes: 0,
            walk: Walk::new(parts.clone()),
            due: Due::new(parts.clone()),
            parts,
            measured: Instant::now(),
            held_up: Trouble::new("planner", "planning is held up", "planning goes on"),
        }
    }

    /// Plans until `stop`. The pass that is under way then may end: what it has written is told,
    /// too.
    pub async fn run(mut self, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_PASS).await;
        };
        let follower = Follower::new(self.parts.clone());
        let leadership = self.parts.queue.leadership();
        tokio::select! {
            () = self.plan(&stop) => {}
            () = follow(&follower, leadership, &stop) => {}
            () = late => {}
        }
    }

    async fn plan(&mut self, stop: &CancellationToken) {
        let mut leadership = self.parts.queue.leadership();
        loop {
            if !leadership.borrow_and_update().leader {
                // Whoever leads meanwhile goes on; what we remember is history by then.
                self.walk.forget();
                self.due.forget();
            }
            let leads = leadership.wait_for(|leadership| leadership.leader);
            let Some(Ok(slots)) =
                stop.run_until_cancelled(leads).await.map(|it| it.map(|it| it.slots))
            else {
                return;
            };
            let next = match self.pass(slots).await {
                Ok(next) => {
                    self.held_up.over();
                    next
                }
                Err(error) => {
                    self.held_up.met(&error);
                    Next::After(Duration::from_secs(1))
                }
            };
            let rested = stop.run_until_cancelled(self.rest(next)).await;
            if rested.is_none() || stop.is_cancelled() {
                return;
            }
        }
    }

    async fn pass(&mut self, slots: u64) -> Result<Next, PlanError> {
        let held = self.parts.queue.metered().await?;
        let since = self.measured.elapsed();
        self.measured = Instant::now();
        self.room.usually(self.parts.budget.usual_rate());
        self.room.measure(held, slots, since);
        for service in self.room.known() {
            let allowed = self.allowed(&service);
            self.room.allow(service, allowed);
        }
        self.room.trip(self.parts.budget.open());
        self.room.share(self.due.knows_many());
        // Of either an error holds up nothing of the other.
        // What is due comes before a refresh-all, or it would lapse meanwhile; but a run goes on also
        // where more is due than can be served.
        let (walk, due) = if self.passes + 1 < RUNS_SHARE {
            let due = self.due.step(&mut self.room, Some(&self.walk)).await;
            self.passes += u64::from(self.room.given() > 0);
            (self.walk_on().await, due)
        } else {
            let walk = self.walk_on().await;
            // Where there was no room for it, it is its turn again.
            if self.room.given() > 0 || !self.walk.knows_servers() {
                self.passes = 0;
            }
            (walk, self.due.step(&mut self.room, None).await)
        };
        Ok(walk?.min(due?))
    }

    async fn walk_on(&mut self) -> Result<Next, PlanError> {
        let knew_servers = self.walk.knows_servers();
        let next = self.walk.step(&mut self.room).await?;
        if !knew_servers && self.walk.knows_servers() {
            self.due.list_again();
        }
        Ok(next)
    }

    fn allowed(&self, service: &str) -> Allowed {
        let budget = &self.parts.budget;
        let Ok(service) = service.parse() else {
            return Allowed { per_second: budget.usual_rate(), latency: Duration::ZERO };
        };
        Allowed { per_second: budget.rate(&service), latency: budget.latency(&service) }
    }

    async fn rest(&self, next: Next) {
        let Parts { queue, wakes, .. } = &self.parts;
        match next {
            Next::Now => {}
            Next::Room => {
                tokio::time::sleep(BREATH).await;
                let made = tokio::time::timeout(BUSY, queue.acked());
                tokio::select! {
                    _made_or_late = made => {}
                    () = queue.nudged() => {}
                }
            }
            Next::After(wait) => {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = queue.nudged() => {}
                    () = wakes.woken() => {}
                }
            }
        }
    }
}

/// Follows what others do until `stop`: whenever this instance leads, and while nobody knows who
/// does. Several may follow then: what they write of an account is the same.
async fn follow(
    follower: &Follower,
    mut leadership: watch::Receiver<Leadership>,
    stop: &CancellationToken,
) {
    loop {
        let follows = |it: &Leadership| it.leader || it.unknown;
        let leads = leadership.wait_for(follows);
        let Some(Ok(_leads)) = stop.run_until_cancelled(leads).await.map(|it| it.map(drop)) else {
            break;
        };
        tokio::select! {
            () = follower.follow() => {}
            _leads_no_more = leadership.wait_for(|it| !follows(it)) => {}
            () = stop.cancelled() => {}
        }
    }
    // The planner's last pass is waited for, not this.
    std::future::pending::<()>().await;
}
