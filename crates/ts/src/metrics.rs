//! A queue's figures for Prometheus, as a text file for node_exporter's textfile collector.
//!
//! Written by the leader when a run has started and when it has ended. The file appears whole. Counters start over when
//! the queue's page is made anew, after a reboot at the latest, as counters of Prometheus may.

use std::fmt::Write;
use std::path::Path;

use crate::page::Tally;
use crate::queue::Queue;

/// Writes the figures; that they cannot be written changes nothing else.
pub(crate) fn write(queue: &Queue, path: &Path) -> std::io::Result<()> {
    toolkit::atomic::write(path, text(queue).as_bytes(), 0o644).map(drop)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit a double for 285,000 years")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn text(queue: &Queue) -> String {
    let page = &queue.page;
    let name = queue.name();
    let mut text = String::new();
    // Names of queues need no escapes.
    let mut metric = |metric: &str, kind: &str, help: &str, values: &[(&str, String)]| {
        let _ = write!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}\n");
        for (labels, value) in values {
            let _ = writeln!(text, "{metric}{{queue=\"{name}\"{labels}}} {value}");
        }
    };
    let flag = |on: bool| vec![("", u8::from(on).to_string())];
    metric("ts_running", "gauge", "Whether a run goes on.", &flag(page.recorded().is_some()));
    metric("ts_disabled", "gauge", "Whether the queue is disabled.", &flag(queue.places.disabled().is_some()));
    let pending: u64 = page.jobs().map(|(_, slot)| slot.kicks().unwrap_or(0).saturating_sub(slot.done())).sum();
    metric(
        "ts_pending_kicks",
        "gauge",
        "Kicks that no finished run covers, of all jobs.",
        &[("", pending.to_string())],
    );
    let failures = page.jobs().map(|(_, slot)| slot.failures()).max().unwrap_or(0);
    metric(
        "ts_failures_in_a_row",
        "gauge",
        "Failures in a row of the job that waits to be tried again.",
        &[("", failures.to_string())],
    );
    let Tally { succeeded, failed, lost, covered, success_unix_ms } = page.tally();
    let results = [(",result=\"success\"", succeeded), (",result=\"failure\"", failed), (",result=\"unknown\"", lost)];
    metric(
        "ts_runs_total",
        "counter",
        "Runs that have ended; unknown are those whose leader was killed.",
        &results.map(|(labels, count)| (labels, count.to_string())),
    );
    metric(
        "ts_covered_kicks_total",
        "counter",
        "Kicks that finished runs cover, retries included.",
        &[("", covered.to_string())],
    );
    if success_unix_ms != 0 {
        metric(
            "ts_last_success_time_seconds",
            "gauge",
            "When the last successful run ended.",
            &[("", seconds(success_unix_ms).to_string())],
        );
    }
    let last = page.jobs().flat_map(|(_, slot)| slot.outcomes()).max_by_key(|outcome| outcome.run);
    if let Some(last) = last {
        metric("ts_last_run_status", "gauge", "Exit status of the last run.", &[("", last.status.to_string())]);
        metric(
            "ts_last_run_start_time_seconds",
            "gauge",
            "When the last run started.",
            &[("", seconds(last.started_unix_ms).to_string())],
        );
        metric(
            "ts_last_run_duration_seconds",
            "gauge",
            "How long the last run took.",
            &[("", seconds(last.duration_ms).to_string())],
        );
    }
    text
}
