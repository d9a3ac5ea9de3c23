//! The names of the queue's keys. All share one hash tag, so that Redis Cluster keeps them on
//! one node and the scripts may use them together.

use sha2::{Digest as _, Sha256};

/// The names of one deployment's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(String);

impl Keys {
    /// Keys are `{PREFIX:TAG}:…`, where TAG is a short hash of database and collection: two
    /// deployments on one Redis never take each other's jobs.
    pub fn new(prefix: &str, database: &str, collection: &str) -> Self {
        let digest = Sha256::digest(format!("{database}.{collection}"));
        let [a, b, c, d, ..] = <[u8; 32]>::from(digest);
        Self(format!("{{{prefix}:{a:02x}{b:02x}{c:02x}{d:02x}}}:"))
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.0
    }

    pub(super) fn named(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// The stream whose entries wake the planner.
    pub(super) fn nudge(&self) -> String {
        self.named("nudge")
    }

    /// The streams that the reader watches, in the order of its scripts' answers.
    pub(super) fn watched(&self) -> [String; 5] {
        ["q:manual", "q:due", "q:bulk", "q:error", "nudge"].map(|name| self.named(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_tells_deployments_apart() {
        let keys = Keys::new("refreshd", "test", "socialaccounts");
        assert_eq!(keys.prefix(), "{refreshd:95d1bc68}:");
        assert_ne!(keys, Keys::new("refreshd", "staging", "socialaccounts"));
        assert_eq!(keys.nudge(), format!("{}nudge", keys.prefix()));
    }
}
