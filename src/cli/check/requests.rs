//! The queue in which the application asks for refreshes: is it served, who else serves it, and which schedules
//! have piled up in it.

use std::io;

use super::findings::{Findings, good};
use crate::bullmq::requests::Requests;
use crate::cli::output::counted;
use crate::config;
use crate::config::Config;
use crate::daemon::Services;
use crate::requests::{Outlook, piled_up};

const WHAT: &str = "requests";

/// Schedules that are named.
const MOST_NAMED: usize = 5;

/// Checks the queue; the one of the usual name, if none is served.
pub(super) async fn check(
    config: &Config,
    services: &Services,
    found: &mut Findings,
) -> io::Result<()> {
    let usual = || {
        let (link, prefix) = (services.link.clone(), &config.posts.prefix);
        Requests::new(link, prefix, config::Requests::USUAL, None)
    };
    let is_served = services.requests.is_some();
    let requests = services.requests.clone().unwrap_or_else(usual);
    let queue = requests.queue();
    let outlook = match Outlook::of(&requests, &services.store).await {
        Ok(outlook) => outlook,
        // Everything else works without it.
        Err(error) => return found.odd(WHAT, format_args!("{queue}: {error}")),
    };
    match (outlook, is_served) {
        (None, true) => good(WHAT, format_args!("{queue}: BullMQ has not used this queue yet")),
        (None, false) => good(WHAT, "BULLMQ_REFRESH_QUEUE is off: requests come by the admin API"),
        (Some(outlook), _) => {
            tell(queue, is_served, &outlook, found)?;
            schedules(queue, is_served, &outlook, found)?;
            if is_served { served(&requests, &outlook, found) } else { Ok(()) }
        }
    }
}

fn tell(queue: &str, is_served: bool, outlook: &Outlook, found: &mut Findings) -> io::Result<()> {
    let jobs = counted(outlook.depth.waiting + outlook.depth.delayed, "job");
    if !is_served {
        return good(
            WHAT,
            format_args!(
                "{queue} holds {jobs}, and is not served from here; `refreshd adopt` says what that would change"
            ),
        );
    }
    if outlook.depth.is_paused {
        return found
            .odd(WHAT, format_args!("{queue} holds {jobs} and is paused: resume it in BullMQ"));
    }
    good(WHAT, format_args!("{queue} is served, and holds {jobs}"))
}

fn schedules(
    queue: &str,
    is_served: bool,
    outlook: &Outlook,
    found: &mut Findings,
) -> io::Result<()> {
    let piled_up = piled_up(&outlook.schedules);
    // One is what the old system needs.
    if piled_up.len() > usize::from(!is_served) {
        let named: Vec<_> = piled_up.iter().take(MOST_NAMED).map(|it| it.key.as_str()).collect();
        let more = if piled_up.len() > MOST_NAMED { ", …" } else { "" };
        let count =
            counted(u64::try_from(piled_up.len()).unwrap_or(u64::MAX), "repeatable schedule");
        let text = format!(
            "{queue} has {count} of refresh-all-tokens ({}{more}), one more with each start of the application: \
             `refreshd adopt` removes them",
            named.join(", ")
        );
        return found.odd(WHAT, text);
    }
    Ok(())
}

fn served(requests: &Requests, outlook: &Outlook, found: &mut Findings) -> io::Result<()> {
    let queue = requests.queue();
    if !outlook.consumers().is_empty() {
        let others = outlook.consumers().join(", ");
        let text = format!(
            "other workers serve {queue}, too ({others}): stop them, or point them at BULLMQ_OTHER_QUEUE, for BullMQ \
             splits the jobs at random"
        );
        found.odd(WHAT, text)?;
    }
    if requests.other().is_none() && outlook.other_accounts() > 0 {
        let accounts = counted(outlook.other_accounts(), "account");
        let text = format!(
            "there are {accounts} of other platforms, whose jobs in {queue} fail with unsupported_platform: set \
             BULLMQ_OTHER_QUEUE to the queue of the worker that serves them"
        );
        found.odd(WHAT, text)?;
    }
    Ok(())
}
