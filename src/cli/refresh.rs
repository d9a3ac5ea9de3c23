//! `refreshd refresh`: asks the daemon, wherever it runs, and waits if it is told to.

use super::args::RefreshArgs;
use super::connect::connect;
use super::output::{counted, line, note, table, tidy};
use super::wait::{Progress, wait};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::Services;
use crate::domain::account::Status;
use crate::domain::identity::AccountId;
use crate::domain::outcome::{Outcome, Trigger};
use crate::domain::run::RunId;
use crate::lifecycle::Exit;
use crate::queue::{JobId, JobStatus, Lane, NewJob, QueueError};
use crate::store::{Run, RunState, StoreError};

/// Accounts that are listed of those that failed.
const MOST_FAILURES: usize = 20;

/// Asks for a refresh of all accounts or of one.
pub(super) async fn refresh(config: &Config, args: &RefreshArgs) -> anyhow::Result<Exit> {
    let services = connect(config).await?;
    match args.account {
        Some(account) => refresh_one(&services, account, args.wait).await,
        None => refresh_all(&services, args.wait).await,
    }
}

async fn refresh_all(services: &Services, waiting: bool) -> anyhow::Result<Exit> {
    let run = services.store.request_run(Trigger::Cli, Clock::system().now()).await?;
    services.queue.nudge().await?;
    line(&run.id)?;
    warn_without_daemon(services).await?;
    if !waiting {
        note("asked for a refresh of all accounts; `refreshd status` shows how far it is");
        return Ok(Exit::Fine);
    }
    let counts = services.store.count_by_status().await?;
    let total = Status::OURS.iter().filter_map(|status| counts.get(*status)).sum();
    match wait(total, async || look_at_run(services, &run.id).await).await? {
        Some(Some(run)) => report(services, &run).await,
        Some(None) => anyhow::bail!("run {} is gone: somebody has deleted it from MongoDB", run.id),
        None => Ok(stopped_waiting(&run.id)),
    }
}

async fn look_at_run(services: &Services, id: &RunId) -> Result<Progress<Option<Run>>, StoreError> {
    let run = services.store.run(id).await?;
    Ok(match run {
        Some(run) if run.state != RunState::Done => {
            let (good, failed) = (run.counts.succeeded(), run.counts.failed());
            let what = match run.state {
                RunState::Queued => "waiting for the daemon to start the run".to_owned(),
                _ => format!("{failed} failed"),
            };
            Progress::Open(good + failed + run.counts.fresh, what)
        }
        over => Progress::Over(over),
    })
}

async fn report(services: &Services, run: &Run) -> anyhow::Result<Exit> {
    let mut outcomes = table(["OUTCOME", "ACCOUNTS"]);
    for (outcome, n) in &run.counts.outcomes {
        outcomes.add_row([outcome.to_string(), n.to_string()]);
    }
    if run.counts.fresh > 0 {
        outcomes.add_row(["left out, just refreshed".to_owned(), run.counts.fresh.to_string()]);
    }
    if !outcomes.is_empty() {
        line(tidy(&outcomes))?;
    }
    let (good, failed) = (run.counts.succeeded(), run.counts.failed());
    if failed == 0 {
        note(format_args!("{} refreshed, none failed", counted(good, "account")));
        return Ok(Exit::Fine);
    }
    let mut failures = table(["ID", "ACCOUNT", "OUTCOME", "WHY"]);
    for failure in services.store.failures(&run.id, MOST_FAILURES).await? {
        failures.add_row([
            failure.account.to_string(),
            failure.handle.or(failure.did).unwrap_or_else(|| "-".to_owned()),
            failure.outcome.to_string(),
            failure.error.unwrap_or_default(),
        ]);
    }
    line(format_args!("\n{}", tidy(&failures)))?;
    note(format_args!("{} refreshed, {failed} failed", counted(good, "account")));
    Ok(Exit::Failed)
}

async fn refresh_one(
    services: &Services,
    account: AccountId,
    waiting: bool,
) -> anyhow::Result<Exit> {
    let document = services.store.load(account).await?;
    let Some(document) = document else {
        let (database, collection) = (services.store.database(), services.store.collection());
        anyhow::bail!(
            "there is no Bluesky account with the id {account} in {database}.{collection}"
        );
    };
    if !document.status.is_ours() {
        anyhow::bail!(
            "account {account} was disconnected by its owner, who has to connect it again"
        );
    }
    let added =
        services.queue.enqueue(&[NewJob::of(&document, Trigger::Cli, Lane::Manual)]).await?;
    let Some(job) = added.into_iter().next().map(|added| added.id) else {
        anyhow::bail!("the queue gave no job id");
    };
    line(&job)?;
    warn_without_daemon(services).await?;
    if !waiting {
        note(format_args!("asked for a refresh of account {account}"));
        return Ok(Exit::Fine);
    }
    match wait(1, async || look_at_job(services, &job).await).await? {
        Some(Some(outcome)) => Ok(if outcome.is_success() { Exit::Fine } else { Exit::Failed }),
        Some(None) => anyhow::bail!("job {job} is gone: Redis has lost it; ask again"),
        None => Ok(stopped_waiting(&job)),
    }
}

async fn look_at_job(
    services: &Services,
    id: &JobId,
) -> Result<Progress<Option<Outcome>>, QueueError> {
    Ok(match services.queue.status(id).await? {
        Some(JobStatus::Queued(lane)) => Progress::Open(0, format!("waits in the lane {lane}")),
        Some(JobStatus::Running) => Progress::Open(0, "is being refreshed".to_owned()),
        Some(JobStatus::Done { outcome, detail, .. }) => {
            let why =
                detail.get("error").and_then(|error| error.as_str()).map(|why| format!(": {why}"));
            note(format_args!("{outcome}{}", why.unwrap_or_default()));
            Progress::Over(Some(outcome))
        }
        None => Progress::Over(None),
    })
}

async fn warn_without_daemon(services: &Services) -> anyhow::Result<()> {
    if services.queue.depth().await?.instances == 0 {
        note(
            "warning: no daemon is alive on this Redis; this waits until one is started (`refreshd run`)",
        );
    }
    Ok(())
}

fn stopped_waiting(id: &impl std::fmt::Display) -> Exit {
    note(format_args!("stopped waiting; {id} goes on, `refreshd status` shows the queue"));
    Exit::Failed
}
