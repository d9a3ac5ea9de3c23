//! The queue when all is well: nothing twice, nobody waits without need, nothing stays behind.

use super::*;

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

/// A slot is a call: a job whose call is over makes room for the next one's, as long as not too many
/// are left to be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_call_is_over_makes_room_before_it_has_ended() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 1);
    let (gate, mut started) = Gate::new();
    let calls = Arc::new(Semaphore::new(0));
    let (handler, over) = (gate.handler(), Arc::clone(&calls));
    let worker = Worker::start_with_slots(&queue, move |job, slot| {
        let (over, written) = (Arc::clone(&over), handler(job));
        async move {
            // The handler says that it has begun, and then waits twice: for its call, and to be written.
            let call = async {
                over.acquire().await.unwrap().forget();
                slot.free();
            };
            futures::join!(call, written).1
        }
    });
    queue.enqueue(&jobs(0..6, Lane::Bulk)).await.unwrap();
    for begun in 1..=4 {
        next(&mut started).await;
        assert!(started.try_recv().is_err(), "call {begun} is not over");
        calls.add_permits(1);
    }
    one(&queue, job(100, Lane::Manual)).await;
    assert!(started.try_recv().is_err(), "four are to be written");
    gate.permits.add_permits(1);
    assert_eq!(number(next(&mut started).await.account), 100, "the first in line");
    calls.add_permits(3);
    gate.permits.add_permits(6);
    emptied(&queue).await;
    assert_eq!(worker.drain().await, Drained { released: Some(0) });
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
    next(&mut started).await;

    let bulk = one(&queue, job(2, Lane::Bulk)).await;
    assert_eq!(next(&mut started).await.id, bulk.id);
    let click = one(&queue, job(2, Lane::Manual)).await;
    assert_eq!(
        (click.id, click.how),
        (bulk.id, Added::Joined),
        "it runs: there is nothing to move"
    );
    assert!(started.try_recv().is_err());
    assert_eq!(queue.run_tally(&run).await.unwrap(), None);
    gate.permits.add_permits(2);
    emptied(&queue).await;
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
    // The reserve is idle, and the next bulk job does not wait for it, nor for news, which may take
    // five seconds to come.
    let begun = Instant::now();
    gate.permits.add_permits(1);
    assert_eq!(next(&mut started).await.lane, Lane::Bulk);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // The lower lanes have all that they may have, and none of theirs ends: the reserve serves
    // a new account and one that waits far behind.
    for click in [30_000, 15_000] {
        let begun = Instant::now();
        one(&queue, job(click, Lane::Manual)).await;
        let first = next(&mut started).await;
        assert_eq!((first.lane, first.account), (Lane::Manual, account(click)));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
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
async fn two_deployments_do_not_see_each_other() {
    let server = RedisServer::start().await;
    let ours = queue(&server, "a", 8);
    let theirs =
        Queue::new(server.link(), Keys::new("t", "db", "staging"), instance("a", "here"), 8);
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
