//! The Redis section: where the queue lives, from single variables or from one address.

use super::reader::{Reader, key_part};
use super::settings;
use crate::link::{Nodes, RedisTarget};

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Where it is, and who we are there.
    pub target: RedisTarget,
    /// What all keys begin with, inside their hash tag's braces; it holds none itself.
    pub key_prefix: String,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Redis> {
    let host = reader.fitting(&settings::REDIS_HOST, host_name);
    let port = reader.number(&settings::REDIS_PORT);
    let username = reader.fitting(&settings::REDIS_USERNAME, |text| Some(text.to_owned()));
    let password = reader.secret(&settings::REDIS_PASSWORD, |_text| true);
    let db = reader.number::<u32>(&settings::REDIS_DB);
    let key_prefix = reader.fitting(&settings::REDIS_KEY_PREFIX, |text| key_part(text, 64));
    let target = if reader.is_given(&settings::REDIS_URL) {
        note_overridden(reader);
        reader.fitting(&settings::REDIS_URL, |text| RedisTarget::from_url(text).ok())?
    } else {
        let nodes = Nodes::Server { host: host?, port: port?, tls: false };
        RedisTarget { nodes, username, password, db: db?.into() }
    };
    Some(Redis { target, key_prefix: key_prefix? })
}

fn note_overridden(reader: &mut Reader<'_>) {
    let overridden: Vec<&str> = [
        &settings::REDIS_HOST,
        &settings::REDIS_PORT,
        &settings::REDIS_USERNAME,
        &settings::REDIS_PASSWORD,
        &settings::REDIS_DB,
    ]
    .into_iter()
    .filter(|setting| reader.is_given(setting))
    .map(|setting| setting.name)
    .collect();
    if !overridden.is_empty() {
        reader.note(format!("REDIS_URL overrides {}", settings::listed(&overridden)));
    }
}

fn host_name(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if bare.contains(':') {
        return bare.parse::<std::net::Ipv6Addr>().ok().map(|address| address.to_string());
    }
    let good = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    bare.chars().all(good).then(|| bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, host) in [
            ("a-b.example", "a-b.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
        ] {
            assert_eq!(host_name(text).as_deref(), Some(host));
        }
        for bad in ["a:6379", "redis://a", "a b", "a/b", "u@a"] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
    }
}
