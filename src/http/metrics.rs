//! `GET /metrics`, in Prometheus's text format.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::error::ApiError;
use super::health::Probe;
use crate::domain::outcome::Named;
use crate::events::Counts;

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is known now.
pub(super) async fn get(State(probe): State<Arc<Probe>>) -> Response {
    let mut registry = Registry::with_prefix("refreshd");
    let lapsing = Gauge::<i64>::default();
    let accounts: u64 = probe.shortages.borrow().iter().map(|it| it.lapsing).sum();
    lapsing.set(i64::try_from(accounts).unwrap_or(i64::MAX));
    registry.register(
        "accounts_lapsing",
        "Accounts that will be without a live access token for want of budget",
        lapsing,
    );
    let entries = Gauge::<i64>::default();
    entries.set(i64::try_from(probe.journal.len()).unwrap_or(i64::MAX));
    registry.register(
        "journal_entries",
        "Accounts that the journal holds a call or an answer of",
        entries,
    );
    let syncs = Counter::<u64>::default();
    syncs.inc_by(probe.journal.syncs());
    registry.register("journal_syncs", "Times that the journal was put on stable storage", syncs);
    let (syncs, served) = (probe.syncs.clone(), probe.served.clone());
    let help = "Looks at the tokens that queued posts carry.";
    registry.register_collector(Box::new(Outcomes { name: "post_syncs", help, counts: syncs }));
    let help = "Jobs of the application's queue of refresh requests.";
    registry.register_collector(Box::new(Outcomes { name: "bullmq_jobs", help, counts: served }));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_error) => ApiError::internal("the metrics cannot be written").into_response(),
    }
}

/// Things by what became of them, always in the same order.
#[derive(Debug)]
struct Outcomes<T> {
    name: &'static str,
    help: &'static str,
    counts: Counts<T>,
}

impl<T: Named + fmt::Debug + Send + Sync> Collector for Outcomes<T> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        for (what, count) in self.counts.totals() {
            let labels = [("outcome", what.name())];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
