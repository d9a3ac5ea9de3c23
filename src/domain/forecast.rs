//! Whether a server's accounts can all be kept fresh within its budget, told before they lapse.
//! Pure arithmetic over an evenly spread fleet (docs/capacity.md).

use std::fmt::Write as _;
use std::time::Duration;

use super::identity::ServiceUrl;
use super::number::{to_f64, to_u64};
use super::renewal::Lead;

/// The accounts of one server that are to be kept fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The server.
    pub service: ServiceUrl,
    /// How many accounts of it are `active`.
    pub active: u64,
    /// How long their access tokens live.
    pub life: Duration,
}

/// More is needed than the budget gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortage {
    /// Whose.
    pub fleet: Fleet,
    /// Calls a second that the accounts need.
    pub needed: f64,
    /// Calls a second that there are.
    pub allowed: f64,
    /// Accounts that will be without a live access token, on average.
    pub lapsing: u64,
    /// How soon the first of them will, if all are fresh now.
    pub within: Duration,
    /// The lead, in percent of a token's life, that would do; `None`: none does.
    pub lead: Option<u32>,
    /// So many egress addresses would do, each with a budget of its own.
    pub addresses: u64,
}

/// Calls a second that a fleet needs.
pub fn needed(fleet: &Fleet, lead: Lead) -> f64 {
    to_f64(fleet.active) / lead.interval(fleet.life).as_secs_f64().max(1.0)
}

/// Of the budgets of several addresses so much is used: a job may come to one that has no turn left
/// (docs/capacity.md, measured).
const USED: f64 = 0.8;

/// Calls a second that so many egress addresses make together, of `each`.
pub fn together(each: f64, addresses: u64) -> f64 {
    if addresses > 1 { each * to_f64(addresses) * USED } else { each }
}

/// What is short, if anything, where each of so many egress addresses may make `each` calls a second.
pub fn shortage(fleet: &Fleet, lead: Lead, each: f64, addresses: u64) -> Option<Shortage> {
    let (needed, allowed) = (needed(fleet, lead), together(each, addresses));
    if needed <= allowed {
        return None;
    }
    let (life, margin) = (fleet.life.as_secs_f64(), lead.of(fleet.life).as_secs_f64());
    // Each account is refreshed as it lapses, at best: so many can be kept.
    let lapsing = (to_f64(fleet.active) - allowed * life).max(0.0);
    // What cannot be served waits; the wait grows until it is longer than the lead.
    let within = margin * allowed / (needed - allowed);
    let least = 1.0 - to_f64(fleet.active) / (allowed * life);
    Some(Shortage {
        fleet: fleet.clone(),
        needed,
        allowed,
        lapsing: to_u64(lapsing.ceil()).max(1),
        within: Duration::try_from_secs_f64(within).unwrap_or(Duration::MAX),
        lead: (least >= SHORTEST_LEAD).then(|| percent(least)),
        addresses: to_u64((needed / (each * USED)).ceil()),
    })
}

/// A shorter one leaves no time to try again.
const SHORTEST_LEAD: f64 = 0.05;

impl Shortage {
    /// What is short and what to do about it, in one or two sentences.
    pub fn sentence(&self) -> String {
        let Self { fleet: Fleet { service, active, .. }, needed, allowed, .. } = self;
        let within = humantime::format_duration(Duration::from_secs(self.within.as_secs()));
        let mut text = format!(
            "the {active} active accounts of {service} need {needed:.1} calls a second, {allowed:.1} are allowed: \
             about {} of them will be without a live access token, the first within {within}. ",
            self.lapsing
        );
        // Writing to a String cannot fail.
        if let Some(lead) = self.lead {
            write!(text, "Set REFRESH_LEAD={lead}%, or spread").unwrap_or_default();
        } else {
            text.push_str("Spread");
        }
        write!(
            text,
            " the instances over {} egress addresses, each with an EGRESS_ID of its own, or raise PDS_RATE_LIMIT if \
             the server allows more",
            self.addresses
        )
        .unwrap_or_default();
        text
    }
}

/// Rounded down: a longer one would need more.
fn percent(share: f64) -> u32 {
    u32::try_from(to_u64((share * 100.0).floor())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: Lead = Lead::Share(0.25);

    fn fleet(active: u64) -> Fleet {
        let service = "https://pds.example".parse().unwrap();
        Fleet { service, active, life: Duration::from_hours(2) }
    }

    #[test]
    fn a_fleet_within_its_budget_is_not_short() {
        assert_eq!(shortage(&fleet(43_200), QUARTER, 8.0, 1), None);
        assert!(shortage(&fleet(43_201), QUARTER, 8.0, 1).is_some());
        assert_eq!(shortage(&fleet(0), QUARTER, 0.1, 1), None);
    }

    #[test]
    fn a_little_too_much_lapses_nobody_with_a_shorter_lead() {
        let short = shortage(&fleet(50_000), QUARTER, 8.0, 1).unwrap();
        assert_eq!((short.lapsing, short.lead, short.addresses), (1, Some(13), 2));
        // 9.26 a second are needed, 1.26 too many; half an hour of 8 a second makes up for it.
        assert_eq!(short.within.as_secs() / 60, 190);
        insta::assert_snapshot!(short.sentence());
    }

    #[test]
    fn far_too_much_lapses_what_cannot_be_served() {
        let short = shortage(&fleet(100_000), QUARTER, 8.0, 1).unwrap();
        assert_eq!((short.lapsing, short.lead, short.addresses), (42_400, None, 3));
        assert_eq!(short.within.as_secs(), 1_369);
        insta::assert_snapshot!(short.sentence());
    }

    #[test]
    fn addresses_that_are_there_already_are_counted() {
        assert_eq!(shortage(&fleet(103_000), QUARTER, 8.0, 3), None);
        let short = shortage(&fleet(162_000), QUARTER, 8.0, 3).unwrap();
        assert_eq!((to_u64(short.needed), to_u64(short.allowed), short.addresses), (30, 19, 5));
    }

    #[test]
    fn the_lead_that_is_told_would_do() {
        for active in (43_300..55_000).step_by(97) {
            let short = shortage(&fleet(active), QUARTER, 8.0, 1).unwrap();
            let Some(lead) = short.lead else { continue };
            assert_eq!(
                shortage(&fleet(active), Lead::Share(f64::from(lead) / 100.0), 8.0, 1),
                None
            );
        }
    }
}
