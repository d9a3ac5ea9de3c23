//! What the programs are measured on: Redis, MongoDB, the scripted server, a folder on disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mongodb::IndexModel;
use mongodb::bson::doc;
use redis::aio::MultiplexedConnection;
use refreshd::store::{Store, StoreConfig};
use tempfile::TempDir;

use crate::fleet::Due;
use crate::harness::mongo::Topology;
use crate::harness::world::World;
use crate::progress::Progress;
use crate::server::Server;

/// `tmpfs`, as the kernel numbers it (statfs(2)).
const IN_MEMORY: i64 = 0x0102_1994;

/// The life of an access token, where it does not matter: Bluesky's.
pub(crate) const USUAL_LIFE: u64 = 7_200;

/// All that a program works with; stopped and removed when this is dropped.
pub(crate) struct Bed {
    pub(crate) world: World,
    pub(crate) server: Server,
    folder: TempDir,
}

impl std::fmt::Debug for Bed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bed").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Bed {
    /// Starts everything; the server's tokens live, and its calls take, so long.
    pub(crate) async fn start(
        out: &Path,
        (access_life, latency): (u64, u64),
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        progress.say("starting Redis, mongod and the scripted PDS");
        fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(fs::canonicalize(out)?)?;
        let (world, server) = tokio::join!(
            World::start_on(&[], Topology::Large),
            Server::start(access_life, latency)
        );
        let bed = Self { world, server: server?, folder };
        bed.index().await?;
        Ok(bed)
    }

    /// The application's index, and the daemon's own.
    async fn index(&self) -> anyhow::Result<()> {
        let keys = doc! { "userId": 1, "platform": 1, "platformAccountId": 1 };
        let unique = mongodb::options::IndexOptions::builder().unique(true).build();
        let index = IndexModel::builder().keys(keys).options(unique).build();
        self.world.accounts().create_index(index).await?;
        let config = StoreConfig {
            uri: self.world.mongo.uri().into(),
            database: "app".to_owned(),
            collection: "socialaccounts".to_owned(),
        };
        Store::connect(&config).await?.ensure_indexes().await?;
        Ok(())
    }

    /// Creates accounts; answers the DID of the last.
    pub(crate) async fn fill(
        &self,
        count: u32,
        due: Due,
        progress: &Progress,
    ) -> anyhow::Result<String> {
        progress.say(&format!("creating {} accounts", grouped(u64::from(count))));
        self.server.fill(&self.world.mongo.uri(), count, due).await
    }

    /// Every account holds the newest token that the server gave out.
    pub(crate) async fn verify(&self, accounts: u64) -> anyhow::Result<()> {
        self.server.verify(&self.world.mongo.uri(), accounts).await
    }

    /// A connection to Redis that sends nothing by itself.
    pub(crate) async fn redis_connection(&self) -> anyhow::Result<MultiplexedConnection> {
        let client = redis::Client::open(self.world.redis.url())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// Redis as it is when it has just been started.
    pub(crate) async fn wipe_redis(&self) -> anyhow::Result<()> {
        let mut connection = self.redis_connection().await?;
        Ok(redis::cmd("FLUSHALL").query_async(&mut connection).await?)
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether the folder is on no disk, where an fsync costs nothing.
    pub(crate) fn is_in_memory(&self) -> anyhow::Result<bool> {
        Ok(rustix::fs::statfs(self.folder.path())?.f_type == IN_MEMORY)
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
