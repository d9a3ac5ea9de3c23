//! The queue against a real Redis: nothing lost, nothing twice, nobody waits without need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use refreshd::domain::identity::AccountId;
use refreshd::domain::outcome::{Outcome, Trigger};
use refreshd::queue::{Added, Drained, Enqueued, Finished, Job, JobStatus, Keys, Lane, NewJob};
use refreshd::queue::{Queue, QueueError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::eventually;
use crate::harness::redis::RedisServer;

const SOON: Duration = Duration::from_secs(20);
const SERVICE: &str = "https://pds.example";

fn queue(server: &RedisServer, instance: &str, slots: usize) -> Queue {
    Queue::new(server.link(), Keys::new("t", "db", "accounts"), instance, slots)
}

fn account(number: u32) -> AccountId {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    AccountId::from_bytes(bytes)
}

fn number(account: AccountId) -> usize {
    u32::from_be_bytes(account.bytes()[..4].try_into().unwrap()).try_into().unwrap()
}

fn job(number: u32, lane: Lane) -> NewJob {
    NewJob {
        account: account(number),
        lane,
        service: Some(SERVICE.parse().unwrap()),
        generation: None,
        trigger: Trigger::Cron,
        run: None,
        watched: false,
    }
}

fn jobs(numbers: std::ops::Range<u32>, lane: Lane) -> Vec<NewJob> {
    numbers.map(|it| job(it, lane)).collect()
}

fn watched(numbers: std::ops::Range<u32>) -> Vec<NewJob> {
    numbers.map(|it| NewJob { watched: true, ..job(it, Lane::Bulk) }).collect()
}

fn done() -> Finished {
    Finished { outcome: Outcome::Refreshed, detail: serde_json::json!({ "ok": true }) }
}

/// An instance at work.
struct Worker {
    stop: CancellationToken,
    handle: JoinHandle<Result<Drained, QueueError>>,
}

impl Worker {
    fn start<H, F>(queue: &Queue, handler: H) -> Self
    where
        H: Fn(Job) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Finished> + Send + 'static,
    {
        let (queue, tracker, stop) = (queue.clone(), TaskTracker::new(), CancellationToken::new());
        let until = stop.clone();
        let handle = tracker.clone().spawn(async move {
            queue.run(handler, &tracker, until, Duration::from_millis(300)).await
        });
        Self { stop, handle }
    }

    async fn drain(self) -> Drained {
        self.stop.cancel();
        self.handle.await.unwrap().unwrap()
    }
}

/// A handler that reports each job, and ends it when it is given a permit.
#[derive(Clone)]
struct Gate {
    started: mpsc::UnboundedSender<Job>,
    permits: Arc<Semaphore>,
}

impl Gate {
    fn new() -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (started, jobs) = mpsc::unbounded_channel();
        (Self { started, permits: Arc::new(Semaphore::new(0)) }, jobs)
    }

    fn handler(
        &self,
    ) -> impl Fn(Job) -> futures::future::BoxFuture<'static, Finished> + Clone + use<> {
        let gate = self.clone();
        move |job| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.started.send(job).unwrap();
                gate.permits.acquire().await.unwrap().forget();
                done()
            })
        }
    }
}

async fn next(jobs: &mut mpsc::UnboundedReceiver<Job>) -> Job {
    tokio::time::timeout(SOON, jobs.recv()).await.expect("a job starts").unwrap()
}

async fn is_empty(queue: &Queue) -> bool {
    let depth = queue.depth().await.unwrap();
    depth.lanes.values().all(|lane| lane.waiting + lane.running == 0)
}

async fn emptied(queue: &Queue) {
    eventually("the queue is empty", SOON, || is_empty(queue)).await;
}

async fn one(queue: &Queue, job: NewJob) -> Enqueued {
    queue.enqueue(&[job]).await.unwrap().remove(0)
}

/// Every key, with how much it holds.
async fn contents(server: &RedisServer) -> BTreeMap<String, u64> {
    let script = redis::Script::new(
        "local sizes = {}
         for _, key in ipairs(redis.call('KEYS', '*')) do
           local size = 1
           local kind = redis.call('TYPE', key).ok
           if kind == 'hash' then size = redis.call('HLEN', key) end
           if kind == 'zset' then size = redis.call('ZCARD', key) end
           if kind == 'stream' then size = redis.call('XLEN', key) end
           sizes[#sizes + 1] = key
           sizes[#sizes + 1] = size
         end
         return sizes",
    );
    server.link().invoke(&script.prepare_invoke()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_were_queued_before_are_each_done_once() {
    const JOBS: u32 = 50_000;
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 64);
    let begun = Instant::now();
    let added = queue.enqueue(&jobs(0..JOBS, Lane::Bulk)).await.unwrap();
    println!("enqueued {JOBS} jobs in {:?}", begun.elapsed());
    assert!(added.iter().all(|it| it.how == Added::New));
    assert_eq!(added.iter().map(|it| &it.id).collect::<BTreeSet<_>>().len(), added.len());

    let times: Arc<Vec<AtomicU8>> = Arc::new((0..JOBS).map(|_| AtomicU8::new(0)).collect());
    let counts = Arc::clone(&times);
    let begun = Instant::now();
    let worker = Worker::start(&queue, move |job: Job| {
        counts[number(job.account)].fetch_add(1, Ordering::Relaxed);
        std::future::ready(done())
    });
    eventually("all are done", Duration::from_mins(2), || is_empty(&queue)).await;
    let took = begun.elapsed();
    println!("drained {JOBS} jobs in {took:?}: {:.0}/s", f64::from(JOBS) / took.as_secs_f64());
    assert_eq!(worker.drain().await, Drained { released: Some(0) });
    assert!(times.iter().all(|it| it.load(Ordering::Relaxed) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_starts_a_job_at_once() {
    let server = RedisServer::start().await;
    let (queue, other) = (queue(&server, "a", 8), queue(&server, "cli", 1));
    let (gate, mut started) = Gate::new();
    gate.permits.add_permits(1_000);
    let worker = Worker::start(&queue, gate.handler());
    let mut took = Vec::new();
    for number in 0..21 {
        let lane = if number % 2 == 0 { Lane::Bulk } else { Lane::Manual };
        let begun = Instant::now();
        one(&other, job(number, lane)).await;
        next(&mut started).await;
        took.push(begun.elapsed());
        emptied(&other).await;
    }
    took.sort();
    println!("enqueue to start: best {:?}, median {:?}, worst {:?}", took[0], took[10], took[20]);
    assert!(took[10] < Duration::from_millis(50), "{took:?}");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_leaves_nothing_behind() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 16);
    let worker = Worker::start(&queue, |_| std::future::ready(done()));
    one(&queue, job(0, Lane::Manual)).await;
    emptied(&queue).await;
    let before = contents(&server).await;

    for lane in Lane::ALL {
        queue.enqueue(&jobs(0..2_500, lane)).await.unwrap();
        emptied(&queue).await;
    }
    let ids = queue.enqueue(&watched(0..200)).await.unwrap();
    emptied(&queue).await;

    let mut after = contents(&server).await;
    for kept in ["done", "done:at"] {
        let key = format!("{}{kept}", Keys::new("t", "db", "accounts").prefix());
        assert_eq!(after.remove(&key), Some(200), "{key}");
    }
    // The lanes were first used in between; an empty stream is all that stays of them.
    after.retain(|key, size| before.contains_key(key) || *size > 0);
    assert_eq!(after, before);
    let status = queue.status(&ids[0].id).await.unwrap();
    assert!(matches!(status, Some(JobStatus::Done { outcome: Outcome::Refreshed, detail, .. })
        if detail == serde_json::json!({ "ok": true })));
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_one_job() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let run = "run-1".parse().unwrap();
    queue.begin_run(&run).await.unwrap();
    let counted = NewJob { run: Some(run.clone()), ..job(1, Lane::Bulk) };

    let first = one(&queue, job(1, Lane::Bulk)).await;
    assert_eq!(first.how, Added::New);
    for _ in 0..2 {
        let joined = one(&queue, counted.clone()).await;
        assert_eq!((joined.id, joined.how), (first.id.clone(), Added::Joined));
    }
    assert_eq!(queue.run_tally(&run).await.unwrap().unwrap().open, 1);
    assert_eq!(queue.status(&first.id).await.unwrap(), Some(JobStatus::Queued(Lane::Bulk)));
    let moved = one(&queue, NewJob { watched: true, ..job(1, Lane::Manual) }).await;
    assert_eq!((moved.id, moved.how), (first.id.clone(), Added::Moved));
    assert_eq!(queue.status(&first.id).await.unwrap(), Some(JobStatus::Queued(Lane::Manual)));
    assert_eq!(one(&queue, counted.clone()).await.how, Added::Joined);

    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    assert_eq!(next(&mut started).await.id, first.id);
    assert_eq!(queue.status(&first.id).await.unwrap(), Some(JobStatus::Running));
    let while_running = one(&queue, job(1, Lane::Manual)).await;
    assert_eq!((while_running.id, while_running.how), (first.id.clone(), Added::Joined));
    gate.permits.add_permits(1);
    emptied(&queue).await;

    let tally = queue.run_tally(&run).await.unwrap().unwrap();
    assert_eq!((tally.open, tally.outcomes), (0, BTreeMap::from([(Outcome::Refreshed, 1)])));
    let status = queue.status(&first.id).await.unwrap();
    assert!(matches!(status, Some(JobStatus::Done { .. })), "the one who moved it watches it");
    let again = one(&queue, job(1, Lane::Manual)).await;
    assert_eq!(again.how, Added::New);
    assert_ne!(again.id, first.id);
    queue.end_run(&run).await.unwrap();
    assert_eq!(queue.run_tally(&run).await.unwrap(), None);
    gate.permits.add_permits(1);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_never_waits_behind_the_bulk() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 16);
    queue.enqueue(&jobs(0..20_000, Lane::Bulk)).await.unwrap();
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    for _ in 0..14 {
        assert_eq!(next(&mut started).await.lane, Lane::Bulk);
    }
    // The lower lanes have all that they may have, and none of theirs ends: the reserve serves
    // a new account and one that waits far behind.
    for click in [30_000, 15_000] {
        let begun = Instant::now();
        one(&queue, job(click, Lane::Manual)).await;
        let first = next(&mut started).await;
        assert_eq!((first.lane, first.account), (Lane::Manual, account(click)));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    // Now all slots are busy: the next one that becomes free is the next click's.
    let clicks = queue.enqueue(&jobs(16_000..16_003, Lane::Manual)).await.unwrap();
    assert!(clicks.iter().all(|it| it.how == Added::Moved));
    for click in clicks {
        assert!(started.try_recv().is_err());
        gate.permits.add_permits(1);
        assert_eq!(next(&mut started).await.id, click.id);
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instances_jobs_are_done_by_another_and_a_slow_ones_are_not() {
    let server = RedisServer::start().await;
    let (doomed, living) = (queue(&server, "doomed", 8), queue(&server, "living", 8));
    let (lost, mut taken) = Gate::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (tracker, handler) = (TaskTracker::new(), lost.handler());
    runtime.spawn({
        let doomed = doomed.clone();
        async move { doomed.run(handler, &tracker, CancellationToken::new(), SOON).await }
    });
    let ids = doomed.enqueue(&jobs(0..5, Lane::Due)).await.unwrap();
    for _ in 0..5 {
        next(&mut taken).await;
    }

    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&living, gate.handler());
    one(&living, job(100, Lane::Due)).await;
    let slow = next(&mut started).await;
    assert_eq!(number(slow.account), 100);

    runtime.shutdown_background();
    let begun = Instant::now();
    let mut again = BTreeSet::new();
    for _ in 0..5 {
        again.insert(next(&mut started).await.id);
    }
    println!("a dead instance's jobs ran again after {:?}", begun.elapsed());
    assert_eq!(again, ids.into_iter().map(|it| it.id).collect());

    // Longer than any key lives, and the slow job is still the first one's.
    eventually("the dead one is forgotten", SOON, async || {
        living.depth().await.unwrap().instances == 1 && begun.elapsed() > Duration::from_secs(14)
    })
    .await;
    assert!(started.try_recv().is_err(), "a living instance's job was taken");
    gate.permits.add_permits(6);
    emptied(&living).await;
    assert_eq!(living.metered().await.unwrap(), BTreeMap::new());
    assert_eq!(worker.drain().await, Drained { released: Some(0) });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_outlives_a_wipe_and_a_restart() {
    let mut server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let link = server.link();
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    one(&queue, job(1, Lane::Bulk)).await;
    next(&mut started).await;

    let _: () = link.query(&redis::cmd("FLUSHALL")).await.unwrap();
    one(&queue, job(2, Lane::Bulk)).await;
    assert_eq!(number(next(&mut started).await.account), 2);
    gate.permits.add_permits(2);
    emptied(&queue).await;

    one(&queue, job(3, Lane::Manual)).await;
    next(&mut started).await;
    server.kill();
    gate.permits.add_permits(1);
    let away = queue.enqueue(&[job(4, Lane::Manual)]).await.unwrap_err();
    assert!(away.to_string().contains("127.0.0.1"), "{away}");
    server.restart().await;
    eventually("jobs are taken again", SOON, async || {
        queue.enqueue(&[job(4, Lane::Manual)]).await.is_ok()
    })
    .await;
    assert_eq!(number(next(&mut started).await.account), 4);
    gate.permits.add_permits(1);
    emptied(&queue).await;
    assert_eq!(worker.drain().await, Drained { released: Some(0) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_an_entry_is_free() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let link = server.link();
    let first = one(&queue, job(1, Lane::Bulk)).await;
    let lane = format!("{}q:bulk", Keys::new("t", "db", "accounts").prefix());
    let _: () = link.query(redis::cmd("DEL").arg(lane)).await.unwrap();
    let second = one(&queue, job(1, Lane::Due)).await;
    assert_eq!(second.how, Added::New);
    assert_ne!(second.id, first.id);
    assert_eq!(queue.status(&first.id).await.unwrap(), None);
    assert_eq!(queue.metered().await.unwrap(), BTreeMap::from([(SERVICE.to_owned(), 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_puts_back_what_is_unfinished() {
    let server = RedisServer::start().await;
    let (first, second) = (queue(&server, "first", 4), queue(&server, "second", 4));
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&first, gate.handler());
    first.enqueue(&jobs(0..6, Lane::Due)).await.unwrap();
    for _ in 0..4 {
        next(&mut started).await;
    }
    worker.stop.cancel();
    gate.permits.add_permits(1);
    assert_eq!(worker.drain().await, Drained { released: Some(3) });
    let depth = first.depth().await.unwrap();
    assert_eq!((depth.lanes[&Lane::Due].waiting, depth.instances), (5, 0));

    let (gate, mut started) = Gate::new();
    gate.permits.add_permits(5);
    let worker = Worker::start(&second, gate.handler());
    for _ in 0..5 {
        next(&mut started).await;
    }
    emptied(&second).await;
    assert_eq!(second.metered().await.unwrap(), BTreeMap::new());
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deployments_do_not_see_each_other() {
    let server = RedisServer::start().await;
    let ours = queue(&server, "a", 8);
    let theirs = Queue::new(server.link(), Keys::new("t", "db", "staging"), "a", 8);
    theirs.enqueue(&jobs(0..3, Lane::Manual)).await.unwrap();
    let (gate, mut started) = Gate::new();
    gate.permits.add_permits(10);
    let worker = Worker::start(&ours, gate.handler());
    one(&ours, job(9, Lane::Error)).await;
    assert_eq!(number(next(&mut started).await.account), 9);
    emptied(&ours).await;
    assert!(started.try_recv().is_err());
    assert_eq!(theirs.depth().await.unwrap().lanes[&Lane::Manual].waiting, 3);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_its_job_and_nothing_else() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 2);
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let worker = Worker::start(&queue, move |job: Job| {
        count.fetch_add(1, Ordering::SeqCst);
        assert!(number(job.account) != 0, "on purpose, before there is a future");
        async move {
            assert!(number(job.account) != 1, "on purpose, in the future");
            done()
        }
    });
    let ids = queue.enqueue(&watched(0..6)).await.unwrap();
    emptied(&queue).await;
    for (id, expected) in
        ids.iter().zip([Outcome::Unreachable, Outcome::Unreachable, Outcome::Refreshed])
    {
        let status = queue.status(&id.id).await.unwrap();
        assert!(
            matches!(&status, Some(JobStatus::Done { outcome, .. }) if *outcome == expected),
            "{status:?}"
        );
    }
    assert_eq!(ran.load(Ordering::SeqCst), 6);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_jobs_are_metered_by_server() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let metered = async |queue: &Queue| queue.metered().await.unwrap().get(SERVICE).copied();
    queue.enqueue(&jobs(0..10, Lane::Bulk)).await.unwrap();
    queue.enqueue(&jobs(10..12, Lane::Manual)).await.unwrap();
    queue.enqueue(&jobs(0..10, Lane::Error)).await.unwrap();
    assert_eq!(metered(&queue).await, Some(10));
    queue.enqueue(&jobs(0..3, Lane::Manual)).await.unwrap();
    assert_eq!(metered(&queue).await, Some(7));
    queue.enqueue(&jobs(3..6, Lane::Due)).await.unwrap();
    assert_eq!(metered(&queue).await, Some(7));
    let worker = Worker::start(&queue, |_| std::future::ready(done()));
    emptied(&queue).await;
    assert_eq!(metered(&queue).await, None);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nudges_acknowledgements_and_the_leader_are_heard_of() {
    let server = RedisServer::start().await;
    let (first, second) = (queue(&server, "first", 8), queue(&server, "second", 4));
    let one_worker = Worker::start(&first, |_| std::future::ready(done()));
    let mut leads = first.leadership();
    leads.wait_for(|it| it.leader).await.unwrap();
    let two_worker = Worker::start(&second, |_| std::future::ready(done()));
    second.leadership().wait_for(|it| it.slots == 12).await.unwrap();
    assert!(!second.leadership().borrow().leader);

    one(&second, job(1, Lane::Bulk)).await;
    emptied(&first).await;
    second.nudge().await.unwrap();
    let both = futures::future::join(first.nudged(), second.nudged());
    tokio::time::timeout(SOON, both).await.expect("both are nudged");
    one(&second, job(2, Lane::Bulk)).await;
    let either = futures::future::select(Box::pin(first.acked()), Box::pin(second.acked()));
    tokio::time::timeout(SOON, either).await.expect("one acknowledged");

    one_worker.drain().await;
    second.leadership().wait_for(|it| it.leader && it.slots == 4).await.unwrap();
    two_worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_leaves_redis_alone() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let worker = Worker::start(&queue, |_| std::future::ready(done()));
    queue.leadership().wait_for(|it| it.leader).await.unwrap();
    let link = server.link();
    let begun = Instant::now();
    let commands = async || {
        let info: String = link.query(redis::cmd("INFO").arg("commandstats")).await.unwrap();
        let calls = |name: &str| {
            let stat = info.lines().find(|it| it.starts_with(&format!("cmdstat_{name}:")));
            stat.and_then(|it| it.split(['=', ',']).nth(1)?.parse().ok()).unwrap_or(0_u32)
        };
        calls("evalsha") + calls("xread")
    };
    let before = commands().await;
    eventually("ten seconds are over", SOON, async || begun.elapsed() > Duration::from_secs(10))
        .await;
    let sent = commands().await - before;
    println!("an idle instance sends {sent} commands in ten seconds");
    assert!(sent <= 10, "{sent}");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_delivery_was_lost_are_delivered_again() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let ids = queue.enqueue(&jobs(0..3, Lane::Due)).await.unwrap();
    let mut take = redis::cmd("XREADGROUP");
    take.arg("GROUP").arg("workers").arg("a").arg("COUNT").arg(2);
    let lane = format!("{}q:due", Keys::new("t", "db", "accounts").prefix());
    let _: redis::Value =
        server.link().query(take.arg("STREAMS").arg(lane).arg(">")).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().lanes[&Lane::Due].running, 2);

    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    let mut all = BTreeSet::new();
    for _ in 0..3 {
        all.insert(next(&mut started).await.id);
    }
    assert_eq!(all, ids.into_iter().map(|it| it.id).collect());
    gate.permits.add_permits(3);
    emptied(&queue).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_new_jobs_and_nothing_else() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let limit = async |bytes: u32| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes);
        let _: () = server.link().query(&set).await.unwrap();
    };
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    let run = "run".parse().unwrap();
    queue.begin_run(&run).await.unwrap();
    queue
        .enqueue(&[NewJob { run: Some(run.clone()), watched: true, ..job(1, Lane::Bulk) }])
        .await
        .unwrap();
    let id = next(&mut started).await.id;

    limit(1).await;
    let full = queue.enqueue(&[job(2, Lane::Due)]).await.unwrap_err();
    assert!(full.to_string().contains("memory"), "{full}");
    gate.permits.add_permits(1);
    emptied(&queue).await;
    assert!(matches!(queue.status(&id).await.unwrap(), Some(JobStatus::Done { .. })));
    let tally = queue.run_tally(&run).await.unwrap().unwrap();
    assert_eq!((tally.open, tally.outcomes), (0, BTreeMap::from([(Outcome::Refreshed, 1)])));

    limit(0).await;
    assert_eq!(one(&queue, job(2, Lane::Due)).await.how, Added::New);
    assert_eq!(number(next(&mut started).await.account), 2);
    gate.permits.add_permits(1);
    emptied(&queue).await;
    worker.drain().await;
}
