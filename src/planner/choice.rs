//! Which job a run makes of an account, if any. Pure.

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
    /// Nothing more: it cannot be attempted, as an earlier walk of this run has told.
    Malformed,
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
    // Later walks are for those whose jobs a wiped Redis lost.
    if run.pass > 0 {
        if matches!(document.account, Err(Unusable::Malformed { .. })) {
            return Choice::Malformed;
        }
        if document.kept.attempted_at.is_some_and(|at| at >= run.cut_off) {
            return Choice::Skip;
        }
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
/// wakes when its token changes or someone asks for it by name. One that somebody else calls dead,
/// against our own last word, is none.
fn is_settled(document: &Document) -> bool {
    let kept = &document.kept;
    match (&document.token, document.status) {
        (StoredToken::Token(token), Status::Revoked | Status::Expired) => {
            kept.judged_jti.as_deref() == Some(token.jti())
                && kept.outcome.is_some_and(|outcome| !outcome.is_success())
        }
        (StoredToken::Null, Status::Error) => kept.outcome == Some(Outcome::NoRefreshToken),
        _ => false,
    }
}
