//! From a connection string to a [`Store`].

use std::time::Duration;

use mongodb::Client;
use mongodb::bson::RawDocumentBuf;
use mongodb::options::{
    ClientOptions, DatabaseOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::bound::{LONGEST_CALL, bounded};
use super::gather::Gather;
use super::{Store, StoreError};

/// How long a usable server is looked for, and how long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a write waits for a majority.
pub(super) const MAJORITY_WAIT: Duration = Duration::from_secs(10);
const POOL_SIZE: u32 = 32;

/// Where the accounts are.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `MONGODB_URI`. What it says of time-outs and the pool's size stands; reads still go to the
    /// primary and writes still ask for a majority.
    pub uri: SecretString,
    /// The database, whatever the URI's path says.
    pub database: String,
    /// `ACCOUNTS_COLLECTION`.
    pub collection: String,
}

impl Store {
    /// Reads the connection string and makes a pool. Servers are not asked yet ([`Store::ping`]
    /// does), except DNS for a `mongodb+srv` address.
    pub async fn connect(config: &StoreConfig) -> Result<Self, StoreError> {
        let options = options(config.uri.expose_secret()).await?;
        let client = Client::with_options(options)?;
        let mut write_concern = WriteConcern::majority();
        write_concern.w_timeout = Some(MAJORITY_WAIT);
        let options = DatabaseOptions::builder()
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .read_concern(ReadConcern::local())
            .write_concern(write_concern)
            .build();
        let db = client.database_with_options(&config.database, options);
        let accounts = db.collection::<RawDocumentBuf>(&config.collection);
        Ok(Self { client, db, accounts, loads: Gather::new(), writes: Gather::new() })
    }
}

async fn options(uri: &str) -> Result<ClientOptions, StoreError> {
    let has_login = uri.contains('@');
    let parsed = bounded(LONGEST_CALL, async {
        ClientOptions::parse(uri).await.map_err(|error| match *error.kind {
            mongodb::error::ErrorKind::DnsResolve { .. } => error.into(),
            // A password with a stray / or : is read as a host or a port, and quoted.
            _ if has_login => StoreError::BadUri("it does not parse".to_owned()),
            mongodb::error::ErrorKind::InvalidArgument { message, .. } => {
                StoreError::BadUri(super::field::cut(&message))
            }
            _ => StoreError::BadUri("it does not parse".to_owned()),
        })
    });
    let mut options = parsed.await?;
    if options.default_database.as_ref().is_some_and(|name| name.contains('@')) {
        return Err(StoreError::BadUri("it has an @ after its first /".to_owned()));
    }
    options.app_name.get_or_insert_with(|| "refreshd".to_owned());
    options.server_selection_timeout.get_or_insert(PATIENCE);
    options.connect_timeout.get_or_insert(PATIENCE);
    options.max_pool_size.get_or_insert(POOL_SIZE);
    Ok(options)
}
