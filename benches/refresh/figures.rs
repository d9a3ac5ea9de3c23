//! Figures by name: of one round, and the medians and spreads of several.

use std::collections::BTreeMap;

use serde::Serialize;

/// The largest spread, in percent, with which a median is called a result.
const MOST_SPREAD: f64 = 15.0;

/// How figures are shown: name, title, decimals. The order is the table's.
pub(crate) const SHOWN: &[(&str, &str, usize)] = &[
    ("cpu_us", "CPU µs per refresh", 1),
    ("per_second", "refreshes/s", 0),
    ("peak_rss_mb", "peak RSS, MB", 1),
    ("syscalls", "system calls per refresh", 2),
    ("redis_trips", "Redis round trips per refresh", 3),
    ("redis_calls", "Redis commands sent per refresh", 3),
    ("redis_commands", "… with those inside scripts", 2),
    ("redis_cpu_us", "Redis CPU µs per refresh", 1),
    ("mongo_commands", "MongoDB commands per refresh", 3),
    ("mongo_statements", "… statements per refresh", 2),
    ("mongo_cpu_us", "mongod CPU µs per refresh", 1),
    ("pds_cpu_us", "scripted PDS CPU µs per refresh", 1),
    ("others_percent", "processors used by others, %", 1),
];

/// Figures of one round.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Figures(BTreeMap<&'static str, f64>);

impl Figures {
    /// One of them.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The same figures with one more.
    pub(crate) fn with(mut self, name: &'static str, value: f64) -> Self {
        self.0.insert(name, value);
        self
    }
}

impl FromIterator<(&'static str, f64)> for Figures {
    fn from_iter<I: IntoIterator<Item = (&'static str, f64)>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

/// The middle one; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let (below, above) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some((sorted.get(below)? + sorted.get(above)?) / 2.0)
}

/// The smallest value that so many percent of the values do not exceed.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (values.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

/// From the smallest to the largest, in percent of the median.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let smallest = values.iter().copied().min_by(f64::total_cmp)?;
    let largest = values.iter().copied().max_by(f64::total_cmp)?;
    let middle = median(values)?;
    Some(if middle == 0.0 { 0.0 } else { (largest - smallest) / middle * 100.0 })
}

/// The largest share of the machine's processors, in percent, that others may have had: on a machine
/// that is busy all the time, figures agree with each other and are wrong.
const MOST_OTHERS: f64 = 15.0;

/// Whether others were in the way of a measurement.
pub(crate) fn disturbed(figures: &Figures) -> Option<String> {
    let share = |name| figures.get(name).unwrap_or_default();
    let others = share("others_percent") + share("stolen_percent");
    let what = "of the processors' time went to other programs or machines";
    (others > MOST_OTHERS).then(|| format!("{others:.0} % {what}"))
}

/// Several rounds of one program.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) rounds: Vec<Figures>,
    pub(crate) medians: Figures,
    pub(crate) spreads_percent: Figures,
}

impl Summary {
    /// Of these rounds.
    pub(crate) fn of(rounds: Vec<Figures>) -> Self {
        let names = rounds.iter().flat_map(|round| round.0.keys().copied());
        let names: std::collections::BTreeSet<_> = names.collect();
        let values = |name: &&str| -> Vec<f64> {
            rounds.iter().filter_map(|round| round.get(name)).collect()
        };
        let each = |what: fn(&[f64]) -> Option<f64>| -> Figures {
            names.iter().filter_map(|name| Some((*name, what(&values(name))?))).collect()
        };
        let (medians, spreads_percent) = (each(median), each(spread));
        Self { rounds, medians, spreads_percent }
    }

    /// What speaks against calling it a result.
    pub(crate) fn doubts(&self, who: &str) -> Vec<String> {
        if self.rounds.len() < 2 {
            return vec![format!("a single round of the {who} says nothing of its spread")];
        }
        let busy = disturbed(&self.medians).map(|why| format!("during the {who}'s rounds {why}"));
        let spreads = [("cpu_us", "CPU per refresh"), ("per_second", "throughput")];
        spreads
            .into_iter()
            .filter_map(|(name, title)| {
                let spread = self.spreads_percent.get(name).filter(|it| *it > MOST_SPREAD)?;
                Some(format!("the {who}'s {title} spreads over {spread:.0} % of its median"))
            })
            .chain(busy)
            .collect()
    }
}
