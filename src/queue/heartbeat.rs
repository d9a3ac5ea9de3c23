//! The heartbeat: an instance whose key is gone is dead, and the leader puts its jobs back.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Inner, QueueError};
use crate::link::Health;

/// How often; the keys live for ten seconds.
const EVERY: Duration = Duration::from_secs(3);

/// After this long without an answer the leader's key may be gone.
const LEADS_FOR: Duration = Duration::from_secs(7);

/// This instance among the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Whether it is the one that plans. At most one is, but for seconds around an outage.
    pub leader: bool,
    /// Nobody can know who plans: Redis has been away for a while.
    pub unknown: bool,
    /// The slots of all live instances.
    pub slots: u64,
    /// How many live instances are behind each egress address.
    pub egresses: BTreeMap<String, u32>,
}

/// What comes and goes by the millisecond is not asked as often.
const AFTER_OUTAGE: Duration = Duration::from_millis(200);

/// Gives signs of life until it is dropped.
pub(super) async fn beat(queue: Arc<Inner>) {
    let mut health = queue.link.health();
    let mut answered = Instant::now();
    loop {
        // Never given up half-way: the link is to learn how it ends.
        let mut beat = pin!(beat_once(&queue));
        let beaten = match timeout(LEADS_FOR, &mut beat).await {
            Ok(beaten) => beaten,
            Err(_elapsed) => {
                step_down(&queue);
                beat.await
            }
        };
        if beaten.is_ok() {
            answered = Instant::now();
        } else if answered.elapsed() > LEADS_FOR {
            step_down(&queue);
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            // After an outage our key is gone: before somebody takes us for dead.
            () = outage(&mut health) => sleep(AFTER_OUTAGE).await,
        }
    }
}

fn step_down(queue: &Inner) {
    queue.leadership.send_if_modified(|it| {
        let changes = it.leader || !it.unknown;
        (it.leader, it.unknown) = (false, true);
        changes
    });
}

async fn outage(health: &mut watch::Receiver<Health>) {
    for up in [false, true] {
        // The sender lives as long as the queue.
        let _seen = health.wait_for(|it| (*it == Health::Up) == up).await.is_ok();
    }
}

/// One sign of life. Takes or keeps the leadership, and learns of the others.
async fn beat_once(queue: &Inner) -> Result<(), QueueError> {
    let mut call = queue.scripts.beat.prepare_invoke();
    call.key(queue.keys.prefix()).arg(&queue.instance).arg(&queue.sign);
    let (leader, slots, back, signs): (u8, u64, u64, Vec<String>) = queue.invoke(&call).await?;
    if back > 0 {
        tracing::warn!(
            event = "queue.recovered",
            jobs = back,
            "put back the jobs of an instance that is gone"
        );
    }
    let mut egresses = BTreeMap::new();
    for egress_id in signs {
        *egresses.entry(egress_id).or_default() += 1;
    }
    let now = Leadership { leader: leader == 1, unknown: false, slots, egresses };
    queue.leadership.send_if_modified(|before| {
        let changes = *before != now;
        *before = now;
        changes
    });
    Ok(())
}
