//! The sessions of a scripted server, rotated as the reference server does it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::{Options, Session, tokens};

/// What tokens are made by, and when.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) options: &'a Options,
    pub(crate) audience: &'a str,
    /// In milliseconds since 1970.
    pub(crate) now: i64,
}

/// A refusal: status, XRPC error, message.
pub(crate) type Refusal = (u16, &'static str, String);

#[derive(Default)]
pub(crate) struct Accounts {
    by_did: HashMap<String, Account>,
    issued: u64,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) latency: Duration,
    /// What calls that begin wait for.
    pub(crate) gate: Option<CancellationToken>,
    /// By status; dropped connections count as 0.
    pub(crate) answers: BTreeMap<u16, u64>,
    pub(crate) calls: u64,
    /// Calls that arrived, by the `jti` of their token.
    pub(crate) uses: HashMap<String, u64>,
    pub(crate) in_flight: u64,
    pub(crate) most_in_flight: u64,
    pub(crate) connections: u64,
    /// Of the rate limit: the window's start, in milliseconds, and what it has seen.
    pub(crate) window: (i64, u64),
}

pub(crate) struct Account {
    handle: String,
    links: Vec<Link>,
    /// Every `jti` that this account was ever given, by its place among them.
    places: HashMap<String, usize>,
    pub(crate) taken_down: bool,
    pub(crate) deleted: bool,
    pub(crate) deactivated: bool,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) calls: u64,
    /// When the last one arrived.
    pub(crate) called_at: Option<DateTime<Utc>>,
}

/// A row of the reference server's table `refresh_token`.
struct Link {
    jti: String,
    next: Option<String>,
    /// In milliseconds since 1970.
    expires_at: i64,
}

impl Accounts {
    pub(crate) fn account(&mut self, did: &str) -> &mut Account {
        self.by_did.get_mut(did).unwrap_or_else(|| panic!("no account {did}"))
    }

    pub(crate) fn find(&mut self, did: &str) -> Option<&mut Account> {
        self.by_did.get_mut(did)
    }

    /// The audience makes the names of this server's accounts its own.
    pub(crate) fn create(&mut self, terms: Terms<'_>) -> Session {
        let number = self.by_did.len();
        let did = tokens::did(&format!("{} {} {number}", terms.audience, terms.options.seed));
        let account = Account {
            handle: format!("user{number}.test"),
            links: Vec::new(),
            places: HashMap::new(),
            taken_down: false,
            deleted: false,
            deactivated: false,
            faults: VecDeque::new(),
            calls: 0,
            called_at: None,
        };
        self.by_did.insert(did.clone(), account);
        self.login(&did, terms)
    }

    /// One more chain of tokens for an account.
    pub(crate) fn login(&mut self, did: &str, terms: Terms<'_>) -> Session {
        let jti = self.new_jti(did);
        let account = self.account(did);
        account.store(&jti, terms.ends());
        account.session(did, &jti, terms)
    }

    /// What `refreshSession` does with a token that is this server's.
    pub(crate) fn rotate(
        &mut self,
        claims: &tokens::Claims,
        terms: Terms<'_>,
    ) -> Result<Session, Refusal> {
        let did = claims.subject.as_str();
        alive(claims, terms.now)?;
        let fresh = self.new_jti(did);
        let Some(account) = self.find(did).filter(|account| !account.deleted) else {
            return Err(unknown(did));
        };
        if account.taken_down {
            return Err((401, "AccountTakedown", "Account has been taken down".to_owned()));
        }
        account.links.retain(|link| link.expires_at > terms.now);
        let Some(link) = account.links.iter_mut().find(|link| link.jti == claims.jti) else {
            return Err((400, "ExpiredToken", "Token has been revoked".to_owned()));
        };
        link.expires_at = link.expires_at.min(terms.now + millis(terms.options.grace));
        let next = link.next.get_or_insert(fresh).clone();
        account.store(&next, terms.ends());
        Ok(account.session(did, &next, terms))
    }

    /// What `getSession` says to an access token that is this server's. It lives until its end,
    /// whatever became of the session.
    pub(crate) fn session(&self, claims: &tokens::Claims, now: i64) -> Result<String, Refusal> {
        let did = claims.subject.as_str();
        alive(claims, now)?;
        let known = self.by_did.get(did).filter(|account| !account.deleted && !account.taken_down);
        known.map(|account| account.description(did)).ok_or_else(|| unknown(did))
    }

    /// Whether the server would still refresh this token; `unspent`, and never did so.
    pub(crate) fn holds(&self, refresh: &str, now: i64, unspent: bool) -> bool {
        let Some(claims) = tokens::verify(refresh).filter(|claims| claims.is_refresh) else {
            return false;
        };
        let link = self
            .by_did
            .get(&claims.subject)
            .filter(|account| !account.deleted)
            .and_then(|account| account.links.iter().find(|link| link.jti == claims.jti));
        claims.expires_at * 1_000 > now
            && link.is_some_and(|link| link.expires_at > now && !(unspent && link.next.is_some()))
    }

    /// The place of this token's link among all that its account was ever given.
    pub(crate) fn place(&self, refresh: &str) -> Option<usize> {
        let claims = tokens::verify(refresh).filter(|claims| claims.is_refresh)?;
        self.by_did.get(&claims.subject)?.places.get(&claims.jti).copied()
    }

    /// How often a call came with this token, or with a copy of it.
    pub(crate) fn uses(&self, refresh: &str) -> u64 {
        let claims = tokens::verify(refresh).expect("a token of this server");
        self.uses.get(&claims.jti).copied().unwrap_or(0)
    }

    fn new_jti(&mut self, did: &str) -> String {
        self.issued += 1;
        tokens::name(&format!("{did} {}", self.issued))
    }
}

impl Account {
    pub(crate) fn revoke(&mut self) {
        self.links.clear();
    }

    pub(crate) fn end_grace(&mut self) {
        self.links.retain(|link| link.next.is_none());
    }

    /// No part of it has a character that JSON would escape.
    pub(crate) fn answer(&self, session: &Session) -> String {
        let Session { did, handle, access, refresh } = session;
        let (active, status) = self.activity();
        format!(
            r#"{{"accessJwt":"{access}","active":{active},"did":"{did}","didDoc":{{"id":"{did}"}},"email":"{handle}@example.com","emailConfirmed":true,"handle":"{handle}","refreshJwt":"{refresh}"{status}}}"#
        )
    }

    fn description(&self, did: &str) -> String {
        let (handle, (active, status)) = (&self.handle, self.activity());
        format!(
            r#"{{"did":"{did}","handle":"{handle}","email":"{handle}@example.com","emailConfirmed":true,"active":{active}{status}}}"#
        )
    }

    fn activity(&self) -> (&'static str, &'static str) {
        if self.deactivated { ("false", r#","status":"deactivated""#) } else { ("true", "") }
    }

    /// A link that is there already keeps its own, perhaps shortened, life.
    fn store(&mut self, jti: &str, expires_at: i64) {
        if !self.links.iter().any(|link| link.jti == jti) {
            let place = self.places.len();
            self.places.entry(jti.to_owned()).or_insert(place);
            self.links.push(Link { jti: jti.to_owned(), next: None, expires_at });
        }
    }

    fn session(&self, did: &str, jti: &str, terms: Terms<'_>) -> Session {
        let Terms { options, audience, now } = terms;
        let iat = now.div_euclid(1_000);
        let until = |life: Duration| (iat, iat + millis(life) / 1_000);
        Session {
            did: did.to_owned(),
            handle: self.handle.clone(),
            access: tokens::access(audience, did, until(options.access_life)),
            refresh: tokens::refresh(audience, did, jti, until(options.refresh_life)),
        }
    }
}

impl Terms<'_> {
    /// When a link that is made now ends, unless it is spent before.
    fn ends(&self) -> i64 {
        self.now + millis(self.options.refresh_life)
    }
}

fn alive(claims: &tokens::Claims, now: i64) -> Result<(), Refusal> {
    let ended = claims.expires_at * 1_000 <= now;
    if ended { Err((400, "ExpiredToken", "Token has expired".to_owned())) } else { Ok(()) }
}

fn unknown(did: &str) -> Refusal {
    (400, "InvalidRequest", format!("Could not find user info for account: {did}"))
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap()
}
