//! The posting application, and the accounts' owners, in the simulation.

use rand::RngExt as _;

use super::world::Fields;
use super::{World, trouble};
use crate::domain::account::{Bookkeeping, StoredToken};
use crate::domain::answer::Answer;
use crate::domain::session::RefreshJwt;

impl World<'_> {
    /// The posting application, or the account's owner, does something to the document.
    pub(super) fn application(&mut self) {
        let deed = self.rng.random_range(6..16);
        if self.allowed & (1 << deed) == 0 {
            return;
        }
        let Some(mut fields) = self.document.take() else {
            // A new account of the same person, which only a login makes.
            return self.log_in();
        };
        match deed {
            6 | 7 => self.rotate(&mut fields),
            8 => {
                let old = self.rng.random_range(0..self.history.len());
                if fields.token().is_some() {
                    self.written_back = true;
                    fields.token = StoredToken::Token(self.history[old].clone());
                    self.tell(|| {
                        format!(
                            "the application writes back {:?}",
                            fields.token().map(RefreshJwt::jti)
                        )
                    });
                }
            }
            9 => fields.status = "inactive",
            10 => {
                fields.token = StoredToken::Null;
                fields.status = "inactive";
            }
            11 => fields.token = StoredToken::Null,
            12 => fields.status = "error",
            13 => fields.token = StoredToken::Unreadable,
            14 => return self.log_in(),
            _ => {
                self.tell(|| "the document is deleted".to_owned());
                return;
            }
        }
        self.tell(|| {
            format!(
                "deed {deed}: status {}, token {:?}",
                fields.status,
                fields.token().map(RefreshJwt::jti)
            )
        });
        self.hold(Some(fields));
    }

    fn log_in(&mut self) {
        let token = self.server.login(self.now);
        self.tell(|| format!("login: {}", token.jti()));
        self.history.push(token.clone());
        let (token, kept) = (StoredToken::Token(token), Bookkeeping::default());
        self.hold(Some(Fields { token, status: "active", kept }));
    }

    /// Posting refreshes the stored session, and may or may not save what it got.
    fn rotate(&mut self, fields: &mut Fields) {
        let Some(used) = fields.token().filter(|_| fields.is_ours()).cloned() else { return };
        let Answer::Session(session) = self.server.refresh(&used, self.now) else { return };
        if self.happens(trouble::ROTATED_UNSAVED, 0.5) {
            self.lossy = true;
            self.tell(|| format!("the application uses {} and saves nothing", used.jti()));
            return;
        }
        self.history.push(session.pair.refresh.clone());
        fields.token = StoredToken::Token(session.pair.refresh);
    }
}
