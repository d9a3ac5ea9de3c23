//! `refreshd check`: would the daemon work here? Every problem, each with what to do; nothing is
//! changed.

mod findings;
mod posts;
mod requests;
mod servers;

use std::io;

use super::connect;
use super::output::{counted, line};
use crate::capacity;
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::Services;
use crate::domain::appraisal::Appraisal;
use crate::domain::attempt::Expected;
use crate::domain::forecast::{Fleet, together};
use crate::domain::identity::AccountId;
use crate::journal::{Journal, JournalError, Opened};
use crate::lifecycle::Exit;
use crate::store::{Appraised, StoreError};
use findings::{Findings, good};

/// Checks everything that the daemon needs.
pub(super) async fn check(config: &Config) -> anyhow::Result<Exit> {
    let mut found = Findings::default();
    inspect(config, &mut found).await?;
    let warnings = match found.warnings() {
        0 => String::new(),
        n => format!("; {}", counted(n, "warning")),
    };
    let exit = found.exit();
    let verdict = if exit == Exit::Fine {
        "refreshd would work here"
    } else {
        "refreshd would NOT work here"
    };
    line(format_args!("\n{verdict}{warnings}"))?;
    Ok(exit)
}

async fn inspect(config: &Config, found: &mut Findings) -> io::Result<()> {
    good("configuration", "every setting is valid")?;
    for note in &config.notes {
        found.odd("configuration", note)?;
    }
    admin(config, found)?;
    schedule(config, found)?;
    journal(config, found)?;
    let services = match connect::services(config).await {
        Ok(services) => services,
        Err(error) => {
            return found.bad(connect::exit_of(&error), "MongoDB", format_args!("{error:#}"));
        }
    };
    let has_redis = redis(&services, found).await?;
    if has_redis {
        posts::check(&services, found).await?;
    }
    let accounts = mongo(config, &services, found).await?;
    if has_redis && accounts {
        requests::check(config, &services, found).await?;
    }
    servers::check(config, &services, accounts, found).await?;
    if accounts { budget(config, &services, found).await } else { Ok(()) }
}

fn admin(config: &Config, found: &mut Findings) -> io::Result<()> {
    match (&config.admin.listen, &config.admin.token) {
        (None, _) => good("admin API", "off (ADMIN_LISTEN)"),
        (Some(address), None) => found.odd(
            "admin API",
            format_args!("{address} answers health checks only: set ADMIN_TOKEN (at least 32 characters) for the rest"),
        ),
        (Some(address), Some(_)) => good("admin API", address),
    }
}

fn schedule(config: &Config, found: &mut Findings) -> io::Result<()> {
    let Some(schedule) = &config.schedule.cron else {
        return found
            .odd("schedule", "REFRESH_CRON is off: accounts are refreshed on request only");
    };
    let zone = schedule.zone();
    let first = schedule.next_after(Clock::system().now());
    let ticks = std::iter::successors(first, |tick| schedule.next_after(*tick)).take(3);
    let ticks: Vec<_> =
        ticks.map(|tick| tick.with_timezone(&zone).format("%a %F %T").to_string()).collect();
    let pattern = schedule.pattern();
    good("schedule", format_args!("{pattern} ({zone}): next {}", ticks.join(", ")))
}

/// The journal as it stands; a folder that is not there yet is made at the start.
fn journal(config: &Config, found: &mut Findings) -> io::Result<()> {
    let place = config.state_dir.display();
    match Journal::read(&config.state_dir) {
        Ok(Opened { pending, damage }) if damage.is_empty() => {
            let pending = counted(u64::try_from(pending.len()).unwrap_or(u64::MAX), "account");
            good("journal", format_args!("{place}: {pending} pending"))
        }
        Ok(_damaged) => found.odd(
            "journal",
            format_args!("{place} is damaged (`refreshd journal` says where); the rest is settled at the start"),
        ),
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            good("journal", format_args!("{place} (made at the first start)"))
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            found.bad(connect::exit_of(&error), "journal", format_args!("{error:#}"))
        }
    }
}

/// Whether Redis can be used.
async fn redis(services: &Services, found: &mut Findings) -> io::Result<bool> {
    if let Err(why) = connect::redis(services).await {
        found.bad(Exit::Unavailable, "Redis", why)?;
        return Ok(false);
    }
    let info = match services.link.server_info().await {
        Ok(info) => info,
        Err(error) => {
            found.bad(Exit::Failed, "Redis", services.link.explain(&error))?;
            return Ok(false);
        }
    };
    let place = services.link.place();
    if info.is_new_enough() {
        good("Redis", format_args!("{place}, version {}", info.version))?;
    } else {
        let text = format!("{place} has version {}; 6.2 or newer is needed", info.version);
        found.bad(Exit::Failed, "Redis", text)?;
    }
    if info.maxmemory_policy != "noeviction" {
        let text = format!(
            "maxmemory-policy is {}: set it to noeviction, or jobs can be dropped",
            info.maxmemory_policy
        );
        found.odd("Redis", text)?;
    }
    match services.queue.depth().await {
        Ok(depth) if depth.instances > 0 => {
            good("daemon", format_args!("{} alive", counted(depth.instances, "instance")))
        }
        Ok(_none) => good("daemon", "none is alive yet: `refreshd run` starts one"),
        Err(error) => found.bad(Exit::Failed, "Redis", error),
    }?;
    Ok(true)
}

/// Whether the accounts can be read.
async fn mongo(config: &Config, services: &Services, found: &mut Findings) -> io::Result<bool> {
    if let Err(why) = connect::mongo(services, config).await {
        found.bad(Exit::Unavailable, "MongoDB", why)?;
        return Ok(false);
    }
    let store = &services.store;
    let place = format!("{}.{}", store.database(), store.collection());
    good("MongoDB", format_args!("{}, {place}", config.mongo.hosts))?;
    let counts = match store.count_by_status().await {
        Ok(counts) => counts,
        Err(error) => {
            found.bad(connect::exit_of(&error.clone().into()), "accounts", error)?;
            return Ok(false);
        }
    };
    let list: Vec<_> = counts.iter().map(|(status, n)| format!("{status} {n}")).collect();
    if list.is_empty() {
        let hint = "are the database and ACCOUNTS_COLLECTION the application's?";
        found.odd("accounts", format_args!("there are no Bluesky accounts in {place}; {hint}"))?;
    } else {
        good("accounts", list.join(", "))?;
    }
    match may_write(config, services).await {
        Ok(()) => good("writing", "allowed")?,
        Err(error) => found.bad(connect::exit_of(&error.clone().into()), "writing", error)?,
    }
    Ok(true)
}

/// Updates that match nothing: the server checks the right to make them all the same.
async fn may_write(config: &Config, services: &Services) -> Result<(), StoreError> {
    let nobody = Expected { id: AccountId::from_bytes([0; 12]), token: None, ours: true };
    let appraisal = Appraisal {
        service: config.pds.home.clone(),
        next_attempt_at: None,
        new_token: None,
        token_expiry: None,
    };
    let nobodys = Appraised { expected: nobody, attempted_at: None, appraisal };
    services.store.appraise(&[nobodys]).await?;
    if let Ok(no_run) = "check".parse() {
        services.store.start_run(&no_run, Clock::system().now()).await?;
    }
    Ok(())
}

/// Whether the budget is enough to keep all accounts fresh.
async fn budget(config: &Config, services: &Services, found: &mut Findings) -> io::Result<()> {
    let Some(lead) = config.schedule.lead else {
        return good("capacity", "KEEP_FRESH is false: accounts may lapse between two runs");
    };
    let fleets = match capacity::fleets(&services.store, &config.pds.home).await {
        Ok(fleets) => fleets,
        Err(error) => return found.bad(connect::exit_of(&error.clone().into()), "capacity", error),
    };
    let Some(per_second) = config.pds.per_second else {
        return found.odd("capacity", "PDS_RATE_LIMIT is off: only the servers' own limits hold");
    };
    // Each address of the instances that run now has a budget of its own; Redis was checked before.
    let addresses = services.queue.depth().await.map_or(1, |depth| depth.addresses.max(1));
    let short = capacity::shortages(&fleets, lead, |_service| Some(per_second), addresses);
    for shortage in &short {
        found.odd("capacity", shortage.sentence())?;
    }
    match capacity::hungriest(&fleets, lead) {
        Some((Fleet { service, active, .. }, needed)) if short.is_empty() => good(
            "capacity",
            format_args!(
                "{needed:.1} of {} calls a second keep the {active} active accounts of {service} fresh",
                together(per_second, addresses)
            ),
        ),
        _ => Ok(()),
    }
}
