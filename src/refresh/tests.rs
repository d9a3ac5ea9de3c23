//! What the shell alone decides: when a call counts as made.

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::json;
use tokio::task::yield_now;

use super::*;
use crate::domain::renewal::Lead;
use crate::domain::session::tests::token;
use crate::pds::ClientConfig;
use crate::store::StoreConfig;

/// A refresher whose services nobody is asked for.
async fn refresher(clock: &Clock, state: &std::path::Path) -> Refresher {
    let home: ServiceUrl = "https://pds.example".parse().unwrap();
    let store = StoreConfig {
        uri: "mongodb://127.0.0.1:1".into(),
        database: "app".to_owned(),
        collection: "socialaccounts".to_owned(),
    };
    let pds = ClientConfig {
        timeout: Duration::from_secs(1),
        routing_home: home.clone(),
        allow_private: false,
        max_idle_per_host: 1,
    };
    Refresher::new(Parts {
        store: Store::connect(&store).await.unwrap(),
        clock: clock.clone(),
        journal: Journal::open(state).unwrap().0,
        pds: Client::new(&pds).unwrap(),
        budget: Arc::new(Budget::off()),
        posts: Posts::off(),
        routing: Routing::new(home, true, false),
        policy: Policy {
            confirm_after: Duration::ZERO,
            suspect: false,
            lead: Some(Lead::Share(0.25)),
        },
    })
}

/// A call of one of many accounts.
fn intent(number: u32, at: DateTime<Utc>) -> Intent {
    let claims = json!({
        "sub": "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "aud": "did:web:pds.example",
        "jti": "one", "iat": 1_780_000_000, "exp": 1_787_000_000,
    });
    let mut id = [7; 12];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Intent {
        account: AccountId::from_bytes(id),
        service: "https://pds.example".parse().unwrap(),
        token: RefreshJwt::parse(&token(&claims)).unwrap(),
        at,
    }
}

/// An entry ends by its age, so one that waited for hours must not be born old.
#[tokio::test]
async fn an_intent_is_as_old_as_its_call_and_not_as_its_wait() {
    let state = tempfile::tempdir().unwrap();
    let asked = DateTime::from_timestamp(1_780_000_000, 0).unwrap();
    let clock = Clock::manual(asked);
    let refresher = refresher(&clock, state.path()).await;
    let intent = intent(0, asked);
    let held = Held::new(&refresher.unsaved);
    let called = asked + TimeDelta::hours(4);
    let free = async {
        yield_now().await;
        assert!(refresher.parts.journal.is_empty(), "an answer waits for MongoDB");
        clock.set(called);
        drop(held);
    };
    tokio::join!(refresher.intend(&intent), free);
    let pending = refresher.parts.journal.pending(intent.account).unwrap();
    assert_eq!(pending.intent.at, called);
    refresher.parts.journal.close().await;
}

/// Of a server that answered thousands with nonsense: nothing new is called then, but what the journal
/// holds is asked again, or it would never be less.
#[tokio::test]
async fn a_journal_that_is_full_of_calls_can_empty() {
    let state = tempfile::tempdir().unwrap();
    let now = DateTime::from_timestamp(1_780_000_000, 0).unwrap();
    let refresher = refresher(&Clock::manual(now), state.path()).await;
    let journal = &refresher.parts.journal;
    let mut calls = 0;
    while journal.health().borrow().is_ok() {
        let some: Vec<_> = (calls..calls + 256).map(|number| intent(number, now)).collect();
        join_all(some.iter().map(|intent| journal.intend(intent))).await.into_iter().for_each(drop);
        calls += 256;
        assert!(calls < 100_000, "it is bounded");
    }
    let (new, again) = (intent(calls, now), intent(0, now));
    let waits = async { drop(refresher.intend(&new).await) };
    tokio::select! {
        biased;
        () = waits => panic!("a new one has no place"),
        event = refresher.intend(&again) => assert!(matches!(event, Event::Intended)),
    }
    journal.close().await;
}
