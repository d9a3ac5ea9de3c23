//! One function per section of the configuration, from settings to parsed values.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono_tz::Tz;
use mongodb::options::{ConnectionString, HostInfo};
use secrecy::ExposeSecret as _;
use tracing_subscriber::EnvFilter;
use url::Host;

use super::reader::{Reader, is_off, key_part, lead, rate, span_of};
use super::{Admin, Life, Log, LogFormat, Mongo, Pattern, Pds, Schedule, settings};
use crate::domain::identity::ServiceUrl;

/// mongoose's default, when neither the URI nor `MONGO_DB` names a database.
const MONGOOSE_DATABASE: &str = "test";

/// Where the state is when nobody says.
const STATE: &str = "./state";

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

pub(super) fn mongo(reader: &mut Reader<'_>) -> Option<Mongo> {
    reader.require(&settings::MONGODB_URI);
    // The driver's own words could quote the password.
    let parsed = |text: &str| ConnectionString::parse(text).ok();
    let uri = reader.secret(&settings::MONGODB_URI, |text| parsed(text).is_some());
    let named = reader.fitting(&settings::MONGO_DB, database_name);
    let collection = reader.fitting(&settings::ACCOUNTS_COLLECTION, collection_name);
    let uri = uri?;
    let ConnectionString { host_info, default_database, .. } = parsed(uri.expose_secret())?;
    let database = match (default_database, named) {
        (Some(path), Some(named)) if path != named => {
            reader.note(format!(
                "MONGO_DB={named} is ignored: MONGODB_URI names the database {path}"
            ));
            path
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => {
            reader.note(format!(
                "neither MONGODB_URI nor MONGO_DB names a database: using {MONGOOSE_DATABASE}, as mongoose does"
            ));
            MONGOOSE_DATABASE.to_owned()
        }
    };
    Some(Mongo { uri, hosts: hosts(&host_info), database, collection: collection? })
}

fn hosts(info: &HostInfo) -> String {
    match info {
        HostInfo::HostIdentifiers(hosts) => {
            hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        HostInfo::DnsRecord(name) => name.clone(),
        _ => "(hosts of an unknown kind)".to_owned(),
    }
}

fn database_name(text: &str) -> Option<String> {
    let good = |c: char| !c.is_whitespace() && !"/\\.\"$\0".contains(c);
    (text.len() <= 63 && text.chars().all(good)).then(|| text.to_owned())
}

fn collection_name(text: &str) -> Option<String> {
    let good = text.len() <= 200 && !text.starts_with("system.") && !text.contains(['$', '\0']);
    good.then(|| text.to_owned())
}

pub(super) fn pds(reader: &mut Reader<'_>) -> Option<Pds> {
    let home = reader.fitting(&settings::BLUESKY_SERVICE_URL, |text| text.parse().ok());
    let routing = reader.word(&settings::PDS_ROUTING);
    let allow_private = reader.flag(&settings::PDS_ALLOW_PRIVATE);
    let limit = |text: &str| if is_off(text) { Some(None) } else { rate(text).map(Some) };
    let per_second = reader.fitting(&settings::PDS_RATE_LIMIT, limit);
    let egress_id = egress_id(reader);
    let timeout = reader.span(&settings::PDS_TIMEOUT);
    let confirm_after = reader.span(&settings::VERDICT_CONFIRM_AFTER);
    if let Some(home) = home.as_ref().filter(|home| is_open_to_listeners(home)) {
        reader.note(format!("BLUESKY_SERVICE_URL={home} is plain http: tokens travel unencrypted"));
    }
    Some(Pds {
        home: home?,
        by_audience: routing? == "audience",
        allow_private: allow_private?,
        per_second: per_second?,
        egress_id: egress_id?,
        timeout: timeout?,
        confirm_after: confirm_after?,
    })
}

fn egress_id(reader: &mut Reader<'_>) -> Option<String> {
    if reader.is_given(&settings::EGRESS_ID) {
        return reader.fitting(&settings::EGRESS_ID, |text| key_part(text, 128));
    }
    let host_name = reader.host_name().and_then(|name| key_part(name, 128));
    if host_name.is_none() {
        reader.require(&settings::EGRESS_ID);
    }
    host_name
}

fn is_open_to_listeners(home: &ServiceUrl) -> bool {
    let loopback = match home.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    home.as_str().starts_with("http://") && !loopback
}

pub(super) fn schedule(reader: &mut Reader<'_>) -> Option<Schedule> {
    let zone = reader.fitting(&settings::REFRESH_CRON_TZ, |text| text.parse::<Tz>().ok());
    // With a zone that is none, the pattern is still checked.
    let cron = reader.parsed(&settings::REFRESH_CRON, |text| cron(text, zone.unwrap_or(Tz::UTC)));
    let limit = reader.number::<u64>(&settings::REFRESH_LIMIT);
    let keep_fresh = reader.flag(&settings::KEEP_FRESH);
    let lead = reader.fitting(&settings::REFRESH_LEAD, lead);
    if keep_fresh == Some(false) && reader.is_given(&settings::REFRESH_LEAD) {
        reader.note("REFRESH_LEAD has no effect: KEEP_FRESH is false".to_owned());
    }
    Some(Schedule {
        cron: zone.and(cron)?,
        limit: limit.map(|limit| (limit > 0).then_some(limit))?,
        lead: keep_fresh?.then_some(lead?),
    })
}

/// A crontab pattern, or `off`.
fn cron(text: &str, zone: Tz) -> Result<Option<Pattern>, String> {
    if is_off(text) {
        return Ok(None);
    }
    let refused = |error| format!("{}; {error}", settings::REFRESH_CRON.allowed());
    Pattern::parse(text, zone).map(Some).map_err(refused)
}

pub(super) fn admin(reader: &mut Reader<'_>) -> Option<Admin> {
    let address = |text: &str| {
        if is_off(text) { Some(None) } else { text.parse::<SocketAddr>().ok().map(Some) }
    };
    let listen = reader.fitting(&settings::ADMIN_LISTEN, address);
    let long = |text: &str| text.len() >= 32 && text.bytes().all(|b| b.is_ascii_graphic());
    let token = reader.secret(&settings::ADMIN_TOKEN, long);
    if listen == Some(None) && token.is_some() {
        reader.note("ADMIN_TOKEN has no effect: ADMIN_LISTEN is off".to_owned());
    }
    Some(Admin { listen: listen?, token })
}

pub(super) fn life(reader: &mut Reader<'_>) -> Option<Life> {
    let startup = reader.span(&settings::STARTUP_TIMEOUT);
    let shutdown = reader.span(&settings::SHUTDOWN_TIMEOUT);
    let down = &settings::REDIS_DOWN_EXIT_AFTER;
    let span_or_off =
        |text: &str| if is_off(text) { Some(None) } else { span_of(down, text).map(Some) };
    let redis_down_exit_after = reader.fitting(down, span_or_off);
    Some(Life {
        startup: startup?,
        shutdown: shutdown?,
        redis_down_exit_after: redis_down_exit_after?,
    })
}

/// The first of systemd's, which are joined with colons.
pub(super) fn state_dir(reader: &mut Reader<'_>) -> Option<PathBuf> {
    if reader.is_given(&settings::STATE_DIR) {
        return reader.fitting(&settings::STATE_DIR, path);
    }
    let kept = reader.state_directory().and_then(|list| path(list.split(':').next()?));
    Some(kept.unwrap_or_else(|| PathBuf::from(STATE)))
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.into())
}

pub(super) fn log(reader: &mut Reader<'_>) -> Option<Log> {
    let format = reader.word(&settings::LOG_FORMAT);
    let filter = reader.parsed(&settings::RUST_LOG, filter);
    let format = match format? {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        _ => LogFormat::Auto,
    };
    Some(Log { format, filter: filter? })
}

/// Directives that the filter accepts. It takes a misspelt level for a module of that name, and
/// would then log nothing at all.
fn filter(text: &str) -> Result<String, String> {
    let words = text.split(',').map(str::trim).map(str::to_ascii_lowercase);
    for word in words.filter(|word| !LEVELS.contains(&word.as_str())) {
        let slip = LEVELS.into_iter().find(|level| settings::edits(&word, level) == 1);
        if let Some(level) = slip {
            return Err(format!("{}; did you mean {level}?", settings::RUST_LOG.allowed()));
        }
    }
    match text.parse::<EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{} ({error})", settings::RUST_LOG.allowed())),
    }
}
