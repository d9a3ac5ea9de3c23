//! What must hold after every step of the simulation.

use super::world::{Fields, Place, Sabotage, Server};
use crate::domain::account::Status;
use crate::domain::attempt::Save;
use crate::domain::session::RefreshJwt;

/// Why a step broke an invariant.
pub(super) type Claim = Result<(), String>;

fn claim(holds: bool, what: &str) -> Claim {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// The order of two tokens, as far as the story tells it. Once an old pair was written back, the
/// stored chain may be another login's, or a late copy that looks newer than it is; contract.md's
/// table takes those as they look.
fn order(
    server: &Server,
    tokens: [&RefreshJwt; 2],
    written_back: bool,
) -> Option<std::cmp::Ordering> {
    let [a, b] = tokens.map(|token| server.place(token));
    let vague = a.login != b.login || tokens.iter().any(|token| server.is_late(token));
    let of = |place: Place, token: &RefreshJwt| (place, token.issued_at());
    (!written_back || !vague).then(|| of(a, tokens[0]).cmp(&of(b, tokens[1])))
}

/// A write of an attempt that was done.
pub(super) fn write(
    (before, after): (&Fields, &Fields),
    save: &Save,
    used: Option<&RefreshJwt>,
    (server, now, written_back): (&Server, i64, bool),
) -> Claim {
    claim(before.is_ours() || after.status == before.status, "a disconnected account was revived")?;
    let Some(stored) = before.token() else {
        claim(after.token().is_none(), "a pair was written over a token that is gone")?;
        return claim(before.matches(save, Sabotage::None), "a write without its compare-and-set");
    };
    if let Some(rotation) = &save.change.rotation {
        let new = &rotation.pair.refresh;
        claim(after.token().is_some_and(|token| token.is(new)), "another pair was stored")?;
        let vague = written_back && used.is_none_or(|used| server.is_late(used));
        let order = order(server, [stored, new], written_back).filter(|_| !vague);
        claim(order.is_none_or(std::cmp::Ordering::is_le), "overwritten by an older link")?;
    } else {
        claim(after.token().is_some_and(|token| token.is(stored)), "a verdict changed the token")?;
    }
    let condemned = save.change.verdict.is_some_and(|verdict| verdict.status != Status::Error);
    // Of a session that was never kept alive the first word is believed, also a wrong one.
    let condemned = condemned && before.kept.refreshed_at.is_some();
    claim(!condemned || !server.is_live(stored, now), "a live session was condemned")?;
    let transient = save.change.note.outcome.is_transient();
    claim(!transient || after.status == before.status, "transient trouble changed the status")?;
    claim(before.matches(save, Sabotage::None), "a write without its compare-and-set")
}

/// An answer that was dropped at the sight of `document`.
pub(super) fn dropped(
    answered: &RefreshJwt,
    document: Option<&Fields>,
    server: &Server,
    written_back: bool,
) -> Claim {
    let Some(stored) = document.and_then(Fields::token) else { return Ok(()) };
    let order = order(server, [answered, stored], written_back);
    claim(order.is_none_or(std::cmp::Ordering::is_le), "a newer link was dropped")
}

/// The end of an entry. `held` is an answer that is neither stored nor dropped.
pub(super) fn released(held: Option<&RefreshJwt>) -> Claim {
    claim(held.is_none(), "an answer left the journal before it was stored")
}

/// The end of an entry without an answer, so long after its call spent the token, if it did.
pub(super) fn forgotten(spent_ago: Option<i64>, grace: i64) -> Claim {
    let over = spent_ago.is_none_or(|ago| ago > grace);
    claim(over, "an entry ended within the grace of its call")
}

/// A call. `held` is what the document has held since the attempt began.
pub(super) fn call(token: &RefreshJwt, held: &[RefreshJwt]) -> Claim {
    let known = held.iter().any(|it| it.is(token));
    claim(known, "a call with a token that the document had moved on from")
}

/// The end of a story in which nobody lost or took back anything.
pub(super) fn quiet_end(document: Option<&Fields>, server: &Server) -> Claim {
    let stored = document.and_then(Fields::token);
    claim(stored.is_none_or(|it| server.is_unspent(it)), "the stored token is spent at the end")
}

/// The end of any story that took less than the grace period, after a few more attempts.
pub(super) fn healed_end(document: Option<&Fields>, server: &Server) -> Claim {
    let Some((fields, stored)) = document.and_then(|fields| Some((fields, fields.token()?))) else {
        return Ok(());
    };
    let healed = server.is_unspent(stored) && fields.status == "active";
    claim(!fields.is_ours() || healed, "further attempts did not heal the session")
}
