//! Several instances look after the same queued posts.

use futures::future::join_all;

use super::*;

const ACCOUNTS: u64 = 4;

/// As many posts of an account as there are states to wait in.
const POSTS: u64 = 5;

const ROUNDS: u64 = 4;

/// What the metric says of one outcome, over all instances.
async fn counted(daemons: &[Daemon], outcome: &str) -> u64 {
    join_all(daemons.iter().map(|daemon| Stage::counted(daemon, outcome))).await.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_write_each_new_pair_once_and_nothing_older() {
    let stage = Stage::set().await;
    let mut accounts = Vec::new();
    for _ in 0..ACCOUNTS {
        let account = stage.account().await;
        for (number, state) in (1..=POSTS).zip(STATES) {
            let old = data(&account.session, "null");
            stage.redis().put(state, &post(&account, number), now() + HOUR, &old).await;
        }
        accounts.push(account);
    }
    let daemons: [_; 2] = tokio::join!(stage.daemon(&[]), stage.daemon(&[])).into();
    for round in 1..=ROUNDS {
        // Pairs are told apart by the second in which they were issued.
        stage.pds.advance(Duration::from_secs(2));
        let asked = daemons.iter().cycle().zip(&accounts);
        let refreshes = join_all(asked.map(|(daemon, account)| daemon.refresh(&account.id)));
        // Both instances hear of every post, again and again, and compare it.
        let stirred = async {
            let posts: Vec<_> = accounts
                .iter()
                .flat_map(|account| (1..=POSTS).map(|number| post(account, number)))
                .collect();
            for id in std::iter::repeat_n(&posts, 10).flatten() {
                stage.redis().tell(&["event", "waiting", "jobId", id]).await;
            }
        };
        for outcome in tokio::join!(refreshes, stirred).0 {
            assert_eq!(outcome["outcome"], "refreshed");
        }
        for account in &accounts {
            let stored = stage.stored(account).await;
            for number in 1..=POSTS {
                stage.becomes(&post(account, number), &data(&stored, &iso(expiry(&stored)))).await;
            }
        }
        let written = round * ACCOUNTS * POSTS;
        eventually("all is counted", SOON, async || counted(&daemons, "synced").await >= written)
            .await;
        assert_eq!(counted(&daemons, "synced").await, written, "each once");
    }
    for daemon in &daemons {
        let compared = Stage::counted(daemon, "current").await;
        assert!(compared > ACCOUNTS * POSTS, "{compared}: this one looked, too");
    }
    assert_eq!(counted(&daemons, "contended").await, 0);
}
