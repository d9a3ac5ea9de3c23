//! What is written at once: ends, then answers, then intents, so that an account's entry ends
//! before its next one begins.

use secrecy::zeroize::Zeroizing;

use super::format::{self, TooLong};
use super::live::{self, Live};
use super::request::Done;
use super::size;
use super::writer::MOST_PENDING;
use crate::domain::identity::AccountId;
use crate::domain::pending::Intent;

/// Records, and whom to tell that they are written.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) answered: Vec<(AccountId, Done)>,
    pub(super) intended: Vec<(Box<Intent>, Done)>,
    /// They found no place among what is pending.
    pub(super) full: Vec<Done>,
    /// They came while intents cannot be written.
    pub(super) refused: Vec<Done>,
    ends: Zeroizing<Vec<u8>>,
    answers: Zeroizing<Vec<u8>>,
    intents: Zeroizing<Vec<u8>>,
    /// Room for the answers that are still to come, in bytes.
    reserved: u64,
    /// The same for the intents of this batch.
    reserve: u64,
}

impl Batch {
    /// Gathers what was asked for, and the ends that wait in memory.
    pub(super) fn gather(
        live: &mut Live,
        answers: Vec<(AccountId, Done)>,
        intents: Vec<(Box<Intent>, Done)>,
    ) -> Self {
        let mut batch = Self { reserved: live.reserved(), ..Self::default() };
        for (account, how) in live.take_ends() {
            // A record of a few words is never too long.
            format::write_end(account, how, &mut batch.ends).unwrap_or(());
        }
        for (account, done) in answers {
            batch.answer(live, account, done);
        }
        let mut weight = live.weight();
        for (intent, done) in intents {
            // One that takes the place of another always fits: it is how a full journal empties.
            let more = live::weight(&intent).saturating_sub(live.weight_of(intent.account));
            let fits = more == 0 || weight.saturating_add(more) <= MOST_PENDING;
            if fits && format::write_intent(&intent, &mut batch.intents).is_ok() {
                weight = weight.saturating_add(more);
                batch.reserve += live::reserve(&intent);
                batch.intended.push((intent, done));
            } else {
                batch.full.push(done);
            }
        }
        batch
    }

    fn answer(&mut self, live: &Live, account: AccountId, done: Done) {
        // An entry that ended meanwhile needs no record.
        let pending = live.get(account);
        let session = pending.and_then(|it| Some((&it.intent, it.answer.as_ref()?)));
        let written = session.map_or(Ok(()), |(intent, session)| {
            format::write_answer(intent, session, &mut self.answers)
        });
        match written {
            Ok(()) => self.answered.push((account, done)),
            Err(TooLong) => self.full.push(done),
        }
    }

    /// The bytes that it takes, with room for the answers to come.
    pub(super) fn room(&self) -> u64 {
        let records = self.ends.len() + self.answers.len() + self.intents.len();
        size(records).saturating_add(self.reserved).saturating_add(self.reserve)
    }

    pub(super) fn refuse_intents(&mut self) {
        self.refused.extend(self.intended.drain(..).map(|(_, done)| done));
        self.intents.clear();
        self.reserve = 0;
    }

    /// Ends are found again by settling once more; answers are not.
    pub(super) fn leave_ends(&mut self) {
        self.ends.clear();
    }

    /// Whether somebody waits for stable storage.
    pub(super) fn is_awaited(&self) -> bool {
        !(self.answers.is_empty() && self.intents.is_empty())
    }

    pub(super) fn records(&self) -> Zeroizing<Vec<u8>> {
        let mut records = Zeroizing::new(Vec::new());
        // And the zero byte that ends the log.
        records.reserve_exact(self.ends.len() + self.answers.len() + self.intents.len() + 1);
        for part in [&self.ends, &self.answers, &self.intents] {
            records.extend_from_slice(part);
        }
        records
    }
}
