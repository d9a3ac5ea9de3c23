//! Which job a run makes of an account, if any. Pure.

use chrono::{DateTime, Utc};

use crate::domain::account::{Document, Status, StoredToken, Unusable};
use crate::domain::outcome::{Outcome, Trigger};
use crate::domain::routing::Routing;
use crate::queue::{Lane, NewJob};
use crate::store::Run;

/// What a run does with an account.
#[derive(Debug)]
pub(super) enum Choice {
    /// Nothing: it is not the daemon's to refresh, or known to be beyond it.
    Skip,
    /// Nothing: it was refreshed after the run's cut-off.
    Fresh,
    /// A job.
    Job(Box<NewJob>),
}

/// Decides on one account of `run`.
pub(super) fn choose(document: &Document, run: &Run, routing: &Routing) -> Choice {
    if !document.status.is_ours() || is_settled(document) {
        return Choice::Skip;
    }
    if document.kept.refreshed_at.is_some_and(|at| at > run.cut_off) {
        return Choice::Fresh;
    }
    if run.pass > 0 && was_tried_since(document, run.cut_off) {
        return Choice::Skip;
    }
    Choice::Job(Box::new(NewJob {
        run: Some(run.id.clone()),
        ..job(document, run.trigger, Lane::Bulk, routing)
    }))
}

/// The job for an account: in `lane` if it is active, in the lowest if it is in trouble.
pub(super) fn job(document: &Document, trigger: Trigger, lane: Lane, routing: &Routing) -> NewJob {
    let service = match &document.token {
        StoredToken::Token(token) => Some(routing.service(token.audience())),
        StoredToken::Null | StoredToken::Unreadable => None,
    };
    let lane = if document.status == Status::Active { lane } else { Lane::Error };
    NewJob { service, ..NewJob::of(document, trigger, lane) }
}

/// A dead session that has been judged and was not replaced since: it has its own probes, and
/// wakes when its token changes or someone asks for it by name.
fn is_settled(document: &Document) -> bool {
    match (&document.token, document.status) {
        (StoredToken::Token(token), Status::Revoked | Status::Expired) => {
            document.kept.judged_jti.as_deref() == Some(token.jti())
        }
        (StoredToken::Null, Status::Error) => {
            document.kept.outcome == Some(Outcome::NoRefreshToken)
        }
        _ => false,
    }
}

/// On a second walk over a run's accounts, to find those whose jobs a wiped Redis lost. What
/// cannot be attempted leaves no trace in its document and was counted on the first.
fn was_tried_since(document: &Document, cut_off: DateTime<Utc>) -> bool {
    matches!(document.account, Err(Unusable::Malformed { .. }))
        || document.kept.attempted_at.is_some_and(|at| at >= cut_off)
}
