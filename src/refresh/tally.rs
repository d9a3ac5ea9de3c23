//! How many accounts that were kept alive each server has answered of late: what its permanent
//! answers are measured against.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::brake::{Minute, WINDOW};
use crate::domain::identity::ServiceUrl;

/// This instance's counts that no record holds yet, by server and minute.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<BTreeMap<ServiceUrl, BTreeMap<i64, u64>>>);

impl Tally {
    /// Counts an answer.
    pub(super) fn answered(&self, service: &ServiceUrl, minute: i64) {
        let mut tally = self.lock();
        if let Some(minutes) = tally.get_mut(service) {
            minutes.retain(|it, _| *it >= minute - WINDOW);
            *minutes.entry(minute).or_default() += 1;
        } else {
            tally.insert(service.clone(), BTreeMap::from([(minute, 1)]));
        }
    }

    /// Takes the counts of a server out, with one first hearing in `minute` if there was one.
    pub(super) fn take(&self, service: &ServiceUrl, minute: i64, first: bool) -> Vec<Minute> {
        let mut minutes = self.lock().remove(service).unwrap_or_default();
        minutes.entry(minute).or_default();
        let told_off = |it| u64::from(first && it == minute);
        minutes
            .into_iter()
            .map(|(at, answered)| Minute { at, told_off: told_off(at), answered })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceUrl, BTreeMap<i64, u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_minutes_is_counted_and_handed_over_once() {
        let (tally, service) = (Tally::default(), "https://pds.example".parse().unwrap());
        for minute in [1, 1, 8, 12] {
            tally.answered(&service, minute);
        }
        let counts = |first| {
            tally
                .take(&service, 12, first)
                .iter()
                .map(|it| (it.at, it.told_off, it.answered))
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(true), [(8, 0, 1), (12, 1, 1)]);
        assert_eq!(counts(false), [(12, 0, 0)]);
    }
}
