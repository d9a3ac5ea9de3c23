//! Watches what MongoDB is told: no account's stored link may ever be an older one than before.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;

use crate::harness::scripted_pds::ScriptedPds;
use crate::harness::world::{World, text};

/// The change stream of the accounts: all that a majority has, in its order, over every fail-over.
pub(super) struct Chains {
    changes: ChangeStream<ChangeStreamEvent<Document>>,
    /// By account, the place of the newest link that was stored.
    newest: BTreeMap<String, usize>,
    /// Pairs that were stored.
    pub(super) stored: usize,
    /// Stored links that were older than one before.
    pub(super) backwards: Vec<String>,
}

impl Chains {
    pub(super) async fn watch(world: &World) -> Self {
        let changes = world.accounts().watch().await.expect("a change stream");
        Self { changes, newest: BTreeMap::new(), stored: 0, backwards: Vec::new() }
    }

    /// Reads on until it meets the mark that [`mark`] has left.
    pub(super) async fn read_to_mark(&mut self, pds: &ScriptedPds) {
        while let Some(change) = self.changes.next().await {
            let change = change.expect("a change");
            let key = change.document_key.as_ref().expect("a key");
            if key.get_str("_id").is_ok_and(|id| id == MARK) {
                return;
            }
            let id = key.get_object_id("_id").expect("an id").to_hex();
            let fields = change.update_description.as_ref().map(|it| &it.updated_fields);
            let stored = fields.or(change.full_document.as_ref());
            let Some(token) = stored.map(|it| text(it, "refreshToken")).filter(|it| !it.is_empty())
            else {
                continue;
            };
            self.stored += 1;
            let place = pds.place(token).expect("a token of this server");
            let newest = self.newest.entry(id.clone()).or_default();
            if place < *newest {
                self.backwards.push(format!("{id}: {place} after {newest}"));
            }
            *newest = place.max(*newest);
        }
        panic!("the change stream ended before its mark");
    }
}

const MARK: &str = "all was watched up to here";

/// Leaves a mark in the accounts' collection, on a document that is not Bluesky's.
pub(super) async fn mark(world: &World) {
    world
        .accounts()
        .insert_one(doc! { "_id": MARK, "platform": "threads", "platformAccountId": "" })
        .await
        .expect("an insert");
}
