//! MongoDB: the accounts' documents, which are the truth, and the runs. The only place that names
//! the driver.
//!
//! Every read goes to the primary with read concern `local`; every write asks for a majority.

mod accounts;
mod appraisals;
mod bound;
mod changes;
mod connect;
mod document;
mod error;
mod failures;
mod field;
mod gather;
mod indexes;
mod listing;
mod platforms;
mod run;
mod run_rows;
mod runs;
mod schedule;
mod servers;
mod updates;
mod write;

use std::fmt;

use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Collection, Database};

pub use accounts::Whose;
pub use appraisals::Appraised;
use bound::{LONGEST_CALL, bounded};
pub use changes::{Changes, Heard};
pub use connect::StoreConfig;
pub use error::StoreError;
pub use failures::Failure;
use gather::Gather;
pub use indexes::IndexReport;
pub use listing::{AccountFilter, AccountRow};
pub use platforms::Platform;
pub use run::{Counts, Run, RunState};
pub use run_rows::{Advance, RunRow};
pub use schedule::Tick;
pub use write::Cas;
use write::{Write, Written};

use crate::domain::account;
use crate::domain::identity::AccountId;

/// The value of `platform` that makes a document ours.
const PLATFORM: &str = "bluesky";

const RUNS: &str = "refresh_runs";
const ROWS: &str = "refresh_run_servers";
const FAILURES: &str = "refresh_run_failures";
const SCHEDULE: &str = "refresh_schedule";
const SERVERS: &str = "refresh_servers";
const CHANGES: &str = "refresh_changes";

/// A connection pool to one database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    client: Client,
    db: Database,
    accounts: Collection<RawDocumentBuf>,
    loads: Gather<AccountId, Result<Option<account::Document>, StoreError>>,
    writes: Gather<Write, Written>,
}

impl Store {
    /// The database's name.
    pub fn database(&self) -> &str {
        self.db.name()
    }

    /// The name of the accounts' collection.
    pub fn collection(&self) -> &str {
        self.accounts.name()
    }

    /// Asks the primary whether it is there.
    pub async fn ping(&self) -> Result<(), StoreError> {
        bounded(LONGEST_CALL, async {
            self.db.run_command(doc! { "ping": 1 }).await?;
            Ok(())
        })
        .await
    }

    fn named(&self, name: &str) -> Collection<Document> {
        self.db.collection(name)
    }

    fn raw(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.db.collection(name)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({}.{})", self.database(), self.collection())
    }
}
