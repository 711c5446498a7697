//! What the gateway counts and measures, in one table: name, kind, labels and meaning. What `GET /metrics` explains,
//! `docs/metrics.md` lists and the dashboard and the alerts may ask for is made from it or held against it. Every label has
//! a bounded set of values: none holds a tenant, a key, a task, a model or a path.

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often something took up to so much.
    Histogram,
}

impl Kind {
    /// Its name in Prometheus' text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! meters {
    ($($name:ident $kind:ident $text:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $name: &str = $text;)*

        /// Every metric, in the order of the table.
        pub const ALL: &[Meter] = &[
            $(Meter { name: $text, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

meters! {
    HTTP_REQUESTS Counter "easel_http_requests_total" ["route", "status"] "Requests answered, by route template and status class (2xx, 4xx, …).";
    HTTP_SECONDS Histogram "easel_http_request_seconds" ["route"] "From a request's header to its answer's, in seconds; waits that callers ask for are in it.";
    HTTP_SHED Counter "easel_http_shed_total" ["class"] "Requests turned away under load: stream, list, low, normal.";
    HTTP_CONNECTIONS Gauge "easel_http_connections" [] "Open connections of callers.";
    HTTP_REFUSED Counter "easel_http_connections_refused_total" [] "Connections turned away because as many were open as may be.";
    EVENT_STREAMS Gauge "easel_event_streams" [] "Callers that follow tasks by server-sent events at the moment.";
    TASKS_ACCEPTED Counter "easel_tasks_accepted_total" [] "Tasks stored durably; replays of a known task are not counted.";
    TASKS_FINISHED Counter "easel_tasks_finished_total" ["status", "code"] "Tasks that ended, with the error's code (`none` for success).";
    TASK_SECONDS Histogram "easel_task_seconds" ["status"] "From a task's acceptance to its end, in seconds.";
    TASKS_OPEN Gauge "easel_tasks_open" ["phase"] "Tasks that have not ended, over all replicas: queued, at_provider, reconciling, saving.";
    QUEUE_WAIT Histogram "easel_queue_wait_seconds" ["provider"] "From a task's acceptance to its first submission, in seconds.";
    SUBMISSIONS Counter "easel_submissions_total" ["provider"] "Paid calls whose intent was committed.";
    ATTEMPTS Counter "easel_attempts_total" ["provider", "outcome", "error", "billed"] "Attempts that are over: how, with which error's code (`none` for success), and whether they were billed (no, yes, unknown).";
    ATTEMPT_SECONDS Histogram "easel_attempt_seconds" ["provider"] "From a submission to its pictures' links, in seconds.";
    COST Counter "easel_cost_nanousd_total" ["provider", "billed"] "Money in nano-dollars (1e-9): charged (billed=yes), or possibly charged and nobody can say (billed=unknown).";
    UNKNOWN_OUTCOMES Counter "easel_unknown_outcomes_total" ["provider"] "Paid calls whose outcome was not known when they ended; some are found again.";
    LATE Counter "easel_late_results_total" ["provider", "billed"] "Attempts whose end was learned after their task had gone on without them.";
    POLLS Counter "easel_polls_total" ["provider", "answer"] "Looks at jobs of providers: pending, done, failed, error.";
    PICTURES Counter "easel_pictures_saved_total" [] "Pictures taken into custody.";
    PICTURE_BYTES Counter "easel_picture_bytes_saved_total" [] "Their bytes.";
    QUARANTINED Counter "easel_quarantined_total" ["provider", "kind"] "Answers to paid calls (answer) and downloaded results (download) that could not be turned into an image and are kept.";
    QUARANTINE_OPEN Gauge "easel_quarantine_open" [] "Items in quarantine that have given no image yet.";
    ABSURD_CHARGES Counter "easel_absurd_charges_total" ["provider"] "Charges that providers reported far beyond the price; they are held as unknown.";
    JOB_CONFLICTS Counter "easel_job_conflicts_total" ["provider"] "Answers that named a job which another attempt has already; nothing was delivered of them.";
    SPOOL_BYTES Gauge "easel_spool_bytes" [] "Bytes of answers and images that wait in the spool for the blob store.";
    SAVING_OLDEST Gauge "easel_saving_oldest_seconds" [] "Since when the oldest task that has pictures at its provider and not yet here was started, in seconds; 0: none.";
    RECONCILING_OLDEST Gauge "easel_reconciling_oldest_seconds" [] "Since when the oldest task of unknown outcome was started, in seconds; 0: none.";
    STRAGGLERS Gauge "easel_stragglers" [] "Attempts that are looked for although their task does not wait for them any more.";
    LANE_IN_FLIGHT Gauge "easel_lane_in_flight" ["provider"] "Tasks at the provider account, over all replicas.";
    LANE_LIMIT Gauge "easel_lane_in_flight_limit" ["provider"] "How many may be there at present.";
    LANE_QUEUED Gauge "easel_lane_queued" ["provider"] "Tasks that wait for the provider account.";
    LANE_STATE Gauge "easel_lane_state" ["provider", "state"] "1 for the state the provider account is in: healthy, paused, open, probing.";
    OUTBOX Gauge "easel_webhooks_pending" ["line"] "Webhooks owed: fresh ones, and those that failed before or go to a host in trouble (retry).";
    OUTBOX_OVERDUE Gauge "easel_webhooks_overdue_seconds" ["line"] "How long the oldest webhook that is due has been due, in seconds.";
    WEBHOOK_TRIES Counter "easel_webhook_tries_total" ["outcome"] "Tries to deliver a webhook: delivered, failed.";
    STORE_COMMIT Histogram "easel_store_commit_seconds" [] "From a write's request to its durable commit, in seconds.";
    STORE_BATCH Histogram "easel_store_batch_jobs" [] "How many writes shared a commit (SQLite).";
    STORE_ERRORS Counter "easel_store_errors_total" [] "Writes and connections the database did not give.";
    STORE_PRESSURE Gauge "easel_store_operations" [] "Writes under way and reads that wait for a connection in this process: what load is shed by.";
    STORE_UP Gauge "easel_store_up" [] "Whether the database answered when these figures were gathered: 1 or 0.";
    BLOB_FREE Gauge "easel_blob_free_ratio" [] "Share of the picture folder's file system that is free, 0 to 1; absent where it cannot be told.";
    SPANS Counter "easel_spans_total" ["outcome"] "Spans of traces: exported; failed, because the collector did not take them; dropped, because too many waited for it.";
    INFO Gauge "easel_info" ["version"] "1, with the program's version.";
    RESIDENT Gauge "process_resident_memory_bytes" [] "Resident memory.";
    OPEN_FDS Gauge "process_open_fds" [] "Open descriptors.";
    MAX_FDS Gauge "process_max_fds" [] "The most descriptors the process may have.";
    UPTIME Gauge "easel_uptime_seconds" [] "Since when the process has been up, in seconds.";
}

/// The table as `docs/metrics.md` shows it.
pub fn table() -> String {
    let row = |meter: &Meter| {
        let labels: Vec<String> = meter.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |\n", meter.name, meter.kind.as_str(), labels.join(", "), meter.help)
    };
    let rows: String = ALL.iter().map(row).collect();
    format!("| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut seen = std::collections::BTreeSet::new();
        for meter in ALL {
            assert!(seen.insert(meter.name), "{} is there twice", meter.name);
            assert_eq!(meter.kind == Kind::Counter, meter.name.ends_with("_total"), "{}", meter.name);
            assert!(meter.help.ends_with('.'), "{}", meter.name);
        }
    }

    #[test]
    fn the_page_shows_the_table() {
        let page = include_str!("../../docs/metrics.md");
        assert!(page.contains(&table()), "docs/metrics.md is out of date; its table is:\n{}", table());
    }
}
