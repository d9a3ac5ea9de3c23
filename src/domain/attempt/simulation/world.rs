//! What surrounds attempts: a server that rotates tokens as the reference server does
//! (bluesky.md), and a document that is written by compare-and-set.

use std::collections::BTreeMap;

use chrono::DateTime;

use crate::domain::account::{Account, Bookkeeping, Document, Status, StoredToken, Unusable};
use crate::domain::answer::{Answer, Session};
use crate::domain::attempt::Save;
use crate::domain::identity::AccountId;
use crate::domain::outcome::Outcome;
use crate::domain::session::tests::token;
use crate::domain::session::{AccessJwt, Pair, RefreshJwt};

pub(super) const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
pub(super) const GRACE: i64 = 2 * 3_600;
const REFRESH_LIFE: i64 = 90 * 86_400;

/// The place of a token in the account's story: which login, and which link of its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) login: u32,
    pub(super) link: u32,
}

#[derive(Debug)]
struct Row {
    place: Place,
    next: Option<String>,
    expires_at: i64,
}

/// The server: one row a link, which outlives its use by the grace period.
#[derive(Debug)]
pub(super) struct Server {
    rows: BTreeMap<String, Row>,
    logins: u32,
    issued: u32,
    /// How long a spent token can be asked again, in seconds.
    grace: i64,
    access: AccessJwt,
    /// Copies of a link that had a successor when they were issued: they look newer than they are.
    late: Vec<RefreshJwt>,
}

impl Server {
    pub(super) fn new(grace: i64) -> Self {
        let access = token(&serde_json::json!({"sub": DID, "iat": 0, "exp": 9_999_999_999_i64}));
        let access = AccessJwt::parse(&access).unwrap();
        Self { rows: BTreeMap::new(), logins: 0, issued: 0, grace, access, late: Vec::new() }
    }

    pub(super) fn login(&mut self, now: i64) -> RefreshJwt {
        self.logins += 1;
        let place = Place { login: self.logins, link: 0 };
        let jti = format!("{}-0", self.logins);
        self.rows.insert(jti.clone(), Row { place, next: None, expires_at: now + REFRESH_LIFE });
        self.issue(&jti, now)
    }

    /// `refreshSession`.
    pub(super) fn refresh(&mut self, used: &RefreshJwt, now: i64) -> Answer {
        if used.expires_at().timestamp() <= now {
            return permanent(Outcome::Expired, now);
        }
        let Some(row) = self.rows.get_mut(used.jti()).filter(|row| row.expires_at > now) else {
            return permanent(Outcome::Revoked, now);
        };
        row.expires_at = row.expires_at.min(now + self.grace);
        let place = Place { link: row.place.link + 1, ..row.place };
        let jti = format!("{}-{}", place.login, place.link);
        row.next = Some(jti.clone());
        let fresh = Row { place, next: None, expires_at: now + REFRESH_LIFE };
        let spent = self.rows.entry(jti.clone()).or_insert(fresh).next.is_some();
        let refresh = self.issue(&jti, now);
        if spent {
            self.late.push(refresh.clone());
        }
        let pair = Pair { access: self.access.clone(), refresh };
        let handle = "alice.test".to_owned();
        Answer::Session(Box::new(Session {
            pair,
            did: DID.to_owned(),
            handle,
            account_status: None,
        }))
    }

    fn issue(&mut self, jti: &str, now: i64) -> RefreshJwt {
        self.issued += 1;
        let claims = serde_json::json!({
            "sub": DID, "aud": "did:web:pds.example", "jti": jti, "iat": now,
            "exp": now + REFRESH_LIFE, "copy": self.issued,
        });
        RefreshJwt::parse(&token(&claims)).unwrap()
    }

    pub(super) fn place(&self, token: &RefreshJwt) -> Place {
        self.rows[token.jti()].place
    }

    pub(super) fn is_live(&self, token: &RefreshJwt, now: i64) -> bool {
        self.rows[token.jti()].expires_at > now && token.expires_at().timestamp() > now
    }

    /// Whether it is the last link of its chain, and so lives for its full life.
    pub(super) fn is_unspent(&self, token: &RefreshJwt) -> bool {
        self.rows[token.jti()].next.is_none()
    }

    pub(super) fn is_late(&self, token: &RefreshJwt) -> bool {
        self.late.iter().any(|late| late.is(token))
    }
}

/// A permanent answer, with the time that the server told.
pub(super) fn permanent(outcome: Outcome, now: i64) -> Answer {
    Answer::Permanent { outcome, said_at: DateTime::from_timestamp(now, 0) }
}

/// A way to break the code on purpose, to see that the simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    /// The filter of a write leaves out the class of the status.
    NoClassFilter,
    /// The filter of a write is the `_id` alone.
    Unconditional,
    /// A write that matched nothing is taken for done.
    IgnoreMisses,
    /// A miss is settled by the answer's own `iat`.
    ByAnswersAge,
    /// An answer is given up at the first miss.
    GiveUp,
    /// An answer is written to the database without being put into the journal first.
    StoreFirst,
    /// A permanent answer is believed at once.
    BelieveAtOnce,
    /// A call that may have happened is asked again without a look at the document.
    NoReread,
    /// A call takes the age of the entry whose place it takes, also when it may have spent.
    NeverYounger,
    /// A call whose reply was lost is taken for one that never reached the server.
    ForgetCall,
    /// An answer leaves the journal before the database has it.
    ReleaseEarly,
}

/// The document's fields.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    pub(super) token: StoredToken,
    pub(super) status: &'static str,
    pub(super) kept: Bookkeeping,
}

impl Fields {
    pub(super) fn token(&self) -> Option<&RefreshJwt> {
        match &self.token {
            StoredToken::Token(token) => Some(token),
            StoredToken::Null | StoredToken::Unreadable => None,
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        Status::read(Some(self.status)).is_ours()
    }

    /// As the store reads it.
    pub(super) fn read(&self, id: AccountId) -> Document {
        let status = Status::read(Some(self.status));
        let handle = Some("alice.test".to_owned());
        let account = match &self.token {
            StoredToken::Null => Err(Unusable::NoRefreshToken),
            StoredToken::Unreadable => Err(Unusable::malformed("refreshToken", "is not a JWT")),
            StoredToken::Token(refresh) => Ok(Account {
                id,
                did: DID.parse().unwrap(),
                handle: handle.clone(),
                refresh: refresh.clone(),
                status,
                token_expiry: None,
                kept: self.kept.clone(),
            }),
        };
        Document {
            id,
            did: Some(DID.to_owned()),
            handle,
            status,
            token_expiry: None,
            access: None,
            kept: self.kept.clone(),
            token: self.token.clone(),
            account,
        }
    }

    /// Whether the filter of `save` matches.
    pub(super) fn matches(&self, save: &Save, sabotage: Sabotage) -> bool {
        let token = match (&self.token, &save.expected.token) {
            (StoredToken::Null, None) => true,
            (StoredToken::Token(stored), Some(expected)) => stored.is(expected),
            _ => false,
        };
        let class = self.is_ours() == save.expected.ours;
        match sabotage {
            Sabotage::NoClassFilter => token,
            Sabotage::Unconditional => true,
            _ => token && class,
        }
    }

    /// What a write that matched sets: with a foreign status the pair alone.
    pub(super) fn apply(&mut self, save: &Save) {
        let change = &save.change;
        if let Some(rotation) = &change.rotation {
            self.token = StoredToken::Token(rotation.pair.refresh.clone());
        }
        if !save.expected.ours {
            return;
        }
        if change.rotation.is_some() {
            self.status = "active";
        } else if let Some(verdict) = &change.verdict {
            self.status = verdict.status.as_str();
        }
        let note = change.note.clone();
        let refreshed = change.rotation.is_some().then_some(note.at);
        self.kept = Bookkeeping {
            refreshed_at: refreshed.or(self.kept.refreshed_at),
            attempted_at: Some(note.at),
            service: note.service,
            outcome: Some(note.outcome),
            failures: note.failures,
            next_attempt_at: note.next_attempt_at,
            judged_jti: note.judged_jti,
            heard: note.heard,
        };
    }
}
