//! The queue when instances, handlers, deliveries or Redis fail: nothing is lost.

use super::*;
use crate::harness::redis::KEEPS_ALL;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instances_jobs_are_done_by_another_and_a_slow_ones_are_not() {
    let server = RedisServer::start().await;
    // The first five jobs fill the doomed one.
    let (doomed, living) = (queue(&server, "doomed", 5), queue(&server, "living", 8));
    let (lost, mut taken) = Gate::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (tracker, work) = (TaskTracker::new(), lost.handler());
    let handler = move |job, _slot| work(job);
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
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    let run = "run".parse().unwrap();
    queue.begin_run(&run).await.unwrap();
    queue
        .enqueue(&[NewJob { run: Some(run.clone()), watched: true, ..job(1, Lane::Bulk) }])
        .await
        .unwrap();
    let id = next(&mut started).await.id;

    server.limit_memory(1).await;
    let full = queue.enqueue(&[job(2, Lane::Due)]).await.unwrap_err();
    assert!(full.to_string().contains("is full"), "{full}");
    gate.permits.add_permits(1);
    emptied(&queue).await;
    assert!(matches!(queue.status(&id).await.unwrap(), Some(JobStatus::Done { .. })));
    let tally = queue.run_tally(&run).await.unwrap().unwrap();
    assert_eq!((tally.open, tally.outcomes), (0, BTreeMap::from([(Outcome::Refreshed, 1)])));

    server.limit_memory(0).await;
    assert_eq!(one(&queue, job(2, Lane::Due)).await.how, Added::New);
    assert_eq!(number(next(&mut started).await.account), 2);
    gate.permits.add_permits(1);
    emptied(&queue).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_its_data_loses_nothing_and_repeats_nothing() {
    let mut server = RedisServer::start_with(&KEEPS_ALL).await;
    let queue = queue(&server, "a", 1);
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    let ids = queue.enqueue(&watched(0..3)).await.unwrap();
    assert_eq!(next(&mut started).await.id, ids[0].id);
    server.kill();
    gate.permits.add_permits(1);
    server.restart().await;
    for id in &ids[1..] {
        assert_eq!(next(&mut started).await.id, id.id);
        gate.permits.add_permits(1);
    }
    emptied(&queue).await;
    for id in ids {
        assert!(matches!(queue.status(&id.id).await.unwrap(), Some(JobStatus::Done { .. })));
    }
    assert!(started.try_recv().is_err());
    assert_eq!(queue.metered().await.unwrap(), BTreeMap::new());
    worker.drain().await;
}
