//! Leases: an account's claim, taken past all lanes, and what becomes of it.

use refreshd::queue::Lease;

use super::*;

fn repair(number: u32) -> NewJob {
    NewJob { trigger: Trigger::Recovery, ..job(number, Lane::Manual) }
}

async fn leased(queue: &Queue, number: u32) -> Lease {
    queue.lease(&repair(number)).await.unwrap().expect("a lease")
}

async fn is_free(queue: &Queue, number: u32) -> bool {
    queue.lease(&repair(number)).await.unwrap().is_some()
}

/// Waiting and running jobs of the manual lane.
async fn manual(queue: &Queue) -> (u64, u64) {
    let lane = queue.depth().await.unwrap().lanes[&Lane::Manual];
    (lane.waiting, lane.running)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_account_is_nobody_elses_until_the_lease_ends() {
    let server = RedisServer::start().await;
    let (queue, other) = (queue(&server, "a", 8), queue(&server, "b", 8));
    let lease =
        queue.lease(&NewJob { watched: true, ..repair(1) }).await.unwrap().expect("a lease");
    assert_eq!((number(lease.job.account), lease.job.trigger), (1, Trigger::Recovery));
    let id = lease.job.id.clone();
    assert_eq!(other.status(&id).await.unwrap(), Some(JobStatus::Running));
    assert_eq!(manual(&other).await, (0, 1));
    assert_eq!(other.metered().await.unwrap(), BTreeMap::new());
    assert!(!is_free(&queue, 1).await && !is_free(&other, 1).await);

    let (gate, mut started) = Gate::new();
    gate.permits.add_permits(9);
    let worker = Worker::start(&other, gate.handler());
    for lane in Lane::ALL {
        let joined = one(&other, job(1, lane)).await;
        assert_eq!((joined.id, joined.how), (id.clone(), Added::Joined), "{lane}");
    }
    one(&other, job(2, Lane::Error)).await;
    assert_eq!(number(next(&mut started).await.account), 2);

    lease.end(done()).await.unwrap();
    emptied(&other).await;
    let status = other.status(&id).await.unwrap();
    assert!(matches!(status, Some(JobStatus::Done { outcome: Outcome::Refreshed, .. })));
    assert_eq!(one(&other, job(1, Lane::Bulk)).await.how, Added::New);
    next(&mut started).await;
    emptied(&other).await;
    assert!(started.try_recv().is_err(), "the leased job was delivered");
    let repairs = format!("{}q:repair", Keys::new("t", "db", "accounts").prefix());
    assert_eq!(contents(&server).await[&repairs], 0);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_is_taken_over_for_all_who_asked() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let (run, late) = ("run".parse().unwrap(), "late".parse().unwrap());
    for run in [&run, &late] {
        queue.begin_run(run).await.unwrap();
    }
    let of_run = NewJob { run: Some(run), watched: true, ..job(1, Lane::Bulk) };
    let waiting = one(&queue, of_run.clone()).await;
    one(&queue, job(2, Lane::Bulk)).await;
    let metered = async || queue.metered().await.unwrap().get(SERVICE).copied();
    assert_eq!(metered().await, Some(2));

    let lease = leased(&queue, 1).await;
    assert_eq!(lease.job.id, waiting.id);
    assert_eq!((lease.job.trigger, &lease.job.run), (Trigger::Cron, &of_run.run));
    assert_eq!(metered().await, Some(1));
    assert_eq!(queue.status(&waiting.id).await.unwrap(), Some(JobStatus::Running));
    let joined = one(&queue, NewJob { run: Some(late.clone()), ..job(1, Lane::Bulk) }).await;
    assert_eq!((joined.id, joined.how), (waiting.id.clone(), Added::Joined));

    let worker = Worker::start(&queue, |job: Job| {
        assert_eq!(number(job.account), 2, "the leased one was delivered");
        std::future::ready(done())
    });
    let depth = async || queue.depth().await.unwrap().lanes[&Lane::Bulk];
    eventually("the other is done", SOON, async || depth().await.waiting == 0).await;
    lease.end(done()).await.unwrap();
    emptied(&queue).await;
    for run in [of_run.run.unwrap(), late] {
        let tally = queue.run_tally(&run).await.unwrap().unwrap();
        let once = BTreeMap::from([(Outcome::Refreshed, 1)]);
        assert_eq!((tally.open, tally.outcomes), (0, once), "{run}");
    }
    assert_eq!(metered().await, None);
    let status = queue.status(&waiting.id).await.unwrap();
    assert!(matches!(status, Some(JobStatus::Done { .. })), "{status:?}");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_not_taken_over() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    one(&queue, job(1, Lane::Bulk)).await;
    next(&mut started).await;
    assert!(!is_free(&queue, 1).await);
    gate.permits.add_permits(1);
    emptied(&queue).await;
    leased(&queue, 1).await.end(done()).await.unwrap();
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_one_gets_the_lease() {
    let server = RedisServer::start().await;
    let (one, two) = (queue(&server, "one", 8), queue(&server, "two", 8));
    one.enqueue(&jobs(0..50, Lane::Due)).await.unwrap();
    for number in 0..100 {
        let (wanted, same) = (repair(number), repair(number));
        let (first, second) = tokio::join!(one.lease(&wanted), two.lease(&same));
        let got = [first.unwrap(), second.unwrap()].into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(got.len(), 1, "account {number}");
        for lease in got {
            lease.end(done()).await.unwrap();
        }
    }
    assert!(is_empty(&one).await);
    assert_eq!(one.metered().await.unwrap(), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wipe_frees_a_leased_account_and_its_end_ends_nothing_else() {
    let server = RedisServer::start().await;
    let (queue, other) = (queue(&server, "a", 8), queue(&server, "b", 8));
    let lease = leased(&queue, 1).await;
    let _: () = server.link().query(&redis::cmd("FLUSHALL")).await.unwrap();
    let newer = leased(&other, 1).await;
    lease.end(done()).await.unwrap();
    assert_eq!(other.status(&newer.job.id).await.unwrap(), Some(JobStatus::Running));
    assert!(!is_free(&queue, 1).await);
    newer.end(done()).await.unwrap();
    assert!(is_empty(&queue).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_in_hand_stays_and_a_dropped_one_is_put_back() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let (dropped, kept) = (leased(&queue, 1).await, leased(&queue, 2).await);
    let id = dropped.job.id.clone();
    drop(dropped);
    let begun = Instant::now();
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&queue, gate.handler());
    let again = next(&mut started).await;
    assert_eq!((again.id, again.lane, again.trigger), (id, Lane::Manual, Trigger::Recovery));
    gate.permits.add_permits(1);
    eventually("it is done", SOON, async || manual(&queue).await == (0, 1)).await;

    // With nothing but the lease there the leader has beaten more than once.
    eventually("time is over", SOON, async || begun.elapsed() > Duration::from_secs(7)).await;
    assert_eq!(queue.status(&kept.job.id).await.unwrap(), Some(JobStatus::Running));
    assert!(started.try_recv().is_err(), "a lease in hand was put back");

    // Who leaves keeps nothing, and what has been put back is not its to end.
    worker.drain().await;
    assert_eq!(queue.status(&kept.job.id).await.unwrap(), Some(JobStatus::Queued(Lane::Manual)));
    let id = kept.job.id.clone();
    kept.end(done()).await.unwrap();
    assert_eq!(queue.status(&id).await.unwrap(), Some(JobStatus::Queued(Lane::Manual)));
    assert_eq!(manual(&queue).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instances_lease_becomes_a_job() {
    let server = RedisServer::start().await;
    let (doomed, living) = (queue(&server, "doomed", 8), queue(&server, "living", 8));
    let run = "run".parse().unwrap();
    living.begin_run(&run).await.unwrap();
    one(&living, NewJob { run: Some(run.clone()), ..job(1, Lane::Bulk) }).await;
    // It gave a sign of life, and gives no more.
    let lease = leased(&doomed, 1).await;
    let (gate, mut started) = Gate::new();
    let worker = Worker::start(&living, gate.handler());
    let job = next(&mut started).await;
    assert_eq!((&job.id, job.lane, &job.run), (&lease.job.id, Lane::Manual, &Some(run.clone())));
    lease.end(done()).await.unwrap();
    assert_eq!(living.status(&job.id).await.unwrap(), Some(JobStatus::Running));
    gate.permits.add_permits(1);
    emptied(&living).await;
    let tally = living.run_tally(&run).await.unwrap().unwrap();
    assert_eq!((tally.open, tally.outcomes), (0, BTreeMap::from([(Outcome::Refreshed, 1)])));
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_leases_nothing_and_loses_nothing() {
    let server = RedisServer::start().await;
    let queue = queue(&server, "a", 8);
    let waiting = one(&queue, job(1, Lane::Bulk)).await;
    let ends = leased(&queue, 2).await;
    let mut limit = redis::cmd("CONFIG");
    limit.arg("SET").arg("maxmemory").arg(1);
    let _: () = server.link().query(&limit).await.unwrap();
    for number in [1, 3] {
        let full = queue.lease(&repair(number)).await.unwrap_err();
        assert!(full.to_string().contains("is full"), "{full}");
    }
    assert_eq!(queue.status(&waiting.id).await.unwrap(), Some(JobStatus::Queued(Lane::Bulk)));
    ends.end(done()).await.unwrap();
    assert_eq!(manual(&queue).await, (0, 0));
}
