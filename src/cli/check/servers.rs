//! The servers that the accounts belong to: does each answer?

use std::io;
use std::time::Duration;

use futures::future::join_all;

use super::findings::{Findings, good};
use crate::cli::connect;
use crate::config::Config;
use crate::daemon::Services;
use crate::domain::identity::ServiceUrl;
use crate::lifecycle::Exit;
use crate::pds::{Client, ClientConfig};
use crate::store::StoreError;

/// Servers that are asked.
const MOST_SERVERS: u32 = 20;

/// Accounts whose tokens are looked at for servers, while the daemon has not noted them yet.
const SAMPLE: u32 = 200;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks them all at once.
pub(super) async fn check(
    config: &Config,
    services: &Services,
    has_mongo: bool,
    found: &mut Findings,
) -> io::Result<()> {
    let client = ClientConfig {
        timeout: config.pds.timeout.min(PATIENCE),
        routing_home: config.pds.home.clone(),
        allow_private: config.pds.allow_private,
        max_idle_per_host: 1,
    };
    let client = match Client::new(&client) {
        Ok(client) => client,
        Err(error) => return found.bad(Exit::Failed, "servers", error),
    };
    let mut servers = vec![config.pds.home.clone()];
    if has_mongo {
        match named(config, services).await {
            Ok(named) => {
                servers.extend(named.into_iter().filter(|server| *server != config.pds.home));
            }
            Err(error) => found.bad(connect::exit_of(&error.clone().into()), "servers", error)?,
        }
    }
    servers.truncate(usize::try_from(MOST_SERVERS).unwrap_or(usize::MAX));
    let answers = join_all(servers.iter().map(|server| client.reachable(server))).await;
    for (server, answer) in servers.iter().zip(answers) {
        let told = match answer {
            Ok(()) => good("server", format_args!("{server} answers")),
            // Its name stands in the reason.
            Err(error) if *server == config.pds.home => {
                found.bad(Exit::Unavailable, "server", error)
            }
            Err(error) => {
                found.odd("server", format_args!("{error}; its accounts cannot be refreshed"))
            }
        };
        told?;
    }
    Ok(())
}

/// The servers that the accounts belong to, as far as a look shows.
async fn named(config: &Config, services: &Services) -> Result<Vec<ServiceUrl>, StoreError> {
    let routing = config.pds.routing();
    let noted = services.store.services(None, MOST_SERVERS).await?;
    let sample = services.store.unstamped(None, SAMPLE).await?;
    let tokens = sample.iter().filter_map(|document| document.account.as_ref().ok());
    let mut servers: Vec<ServiceUrl> = noted.iter().filter_map(|text| text.parse().ok()).collect();
    servers.extend(tokens.map(|account| routing.service(account.refresh.audience())));
    servers.sort();
    servers.dedup();
    Ok(servers)
}
