//! A record's payload: JSON that says its kind. Fields that are not known are ignored, so that
//! older versions read what newer ones add.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};

use super::frame;
use crate::domain::answer::Session;
use crate::domain::identity::AccountId;
use crate::domain::pending::{End, Intent, Pending};
use crate::domain::session::{AccessJwt, Pair, RefreshJwt};
use crate::journal::damage::Flaw;

/// A record that is longer than any may be. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct TooLong;

/// What a record says of its account.
pub(super) enum Record {
    /// It has this entry.
    Pending(Box<Pending>),
    /// It has none any more.
    End(AccountId),
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Written<'a> {
    Intent(&'a Call<'a>),
    /// Holds the call, too: an answer stands alone.
    Answer {
        #[serde(flatten)]
        call: &'a Call<'a>,
        #[serde(flatten)]
        bought: Bought<'a>,
    },
    End {
        account: String,
        how: &'a str,
    },
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    account: Cow<'a, str>,
    #[serde(borrow)]
    service: Cow<'a, str>,
    #[serde(borrow)]
    token: Cow<'a, str>,
    at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct Bought<'a> {
    #[serde(borrow)]
    access: Cow<'a, str>,
    #[serde(borrow)]
    refresh: Cow<'a, str>,
    #[serde(borrow)]
    did: Cow<'a, str>,
    #[serde(borrow)]
    handle: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account_status: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Ended<'a> {
    #[serde(borrow)]
    account: Cow<'a, str>,
}

/// Appends the record of a call.
pub(in crate::journal) fn write_intent(intent: &Intent, into: &mut Vec<u8>) -> Result<(), TooLong> {
    write(&Written::Intent(&Call::of(intent)), into)
}

/// Appends the record of a call's answer.
pub(in crate::journal) fn write_answer(
    intent: &Intent,
    session: &Session,
    into: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let bought = Bought {
        access: session.pair.access.expose().into(),
        refresh: session.pair.refresh.expose().into(),
        did: session.did.as_str().into(),
        handle: session.handle.as_str().into(),
        account_status: session.account_status.as_deref().map(Cow::Borrowed),
    };
    write(&Written::Answer { call: &Call::of(intent), bought }, into)
}

/// Appends the record of an entry's end.
pub(in crate::journal) fn write_end(
    account: AccountId,
    how: End,
    into: &mut Vec<u8>,
) -> Result<(), TooLong> {
    write(&Written::End { account: account.to_string(), how: how.as_str() }, into)
}

fn write(record: &Written<'_>, into: &mut Vec<u8>) -> Result<(), TooLong> {
    let payload = Zeroizing::new(serde_json::to_vec(record).map_err(|_json| TooLong)?);
    if frame::write(&payload, into) { Ok(()) } else { Err(TooLong) }
}

impl<'a> Call<'a> {
    fn of(intent: &'a Intent) -> Self {
        Self {
            account: intent.account.to_string().into(),
            service: intent.service.as_str().into(),
            token: intent.token.expose().into(),
            at: intent.at,
        }
    }
}

/// Reads an intact frame's payload.
pub(super) fn read(payload: &[u8]) -> Result<Record, Flaw> {
    let Kind { kind } = parse(payload, "kind")?;
    match kind.as_ref() {
        "intent" => Ok(Record::Pending(Box::new(Pending { intent: call(payload)?, answer: None }))),
        "answer" => {
            let (intent, answer) = (call(payload)?, Some(bought(payload)?));
            Ok(Record::Pending(Box::new(Pending { intent, answer })))
        }
        "end" => {
            let Ended { account } = parse(payload, "account")?;
            Ok(Record::End(account.parse().map_err(|_id| Flaw::Content("account"))?))
        }
        _ => Err(Flaw::UnknownKind),
    }
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8], part: &'static str) -> Result<T, Flaw> {
    serde_json::from_slice(payload).map_err(|_json| Flaw::Content(part))
}

fn call(payload: &[u8]) -> Result<Intent, Flaw> {
    let call: Call<'_> = parse(payload, "call")?;
    Ok(Intent {
        account: call.account.parse().map_err(|_id| Flaw::Content("account"))?,
        service: call.service.parse().map_err(|_url| Flaw::Content("service"))?,
        token: RefreshJwt::parse(&call.token).map_err(|_token| Flaw::Content("used token"))?,
        at: call.at,
    })
}

fn bought(payload: &[u8]) -> Result<Session, Flaw> {
    let bought: Bought<'_> = parse(payload, "answer")?;
    Ok(Session {
        pair: Pair {
            access: AccessJwt::parse(&bought.access)
                .map_err(|_token| Flaw::Content("new access token"))?,
            refresh: RefreshJwt::parse(&bought.refresh)
                .map_err(|_token| Flaw::Content("new refresh token"))?,
        },
        did: bought.did.into_owned(),
        handle: bought.handle.into_owned(),
        account_status: bought.account_status.map(Cow::into_owned),
    })
}
