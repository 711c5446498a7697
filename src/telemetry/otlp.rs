//! Sends spans to an OpenTelemetry collector: OTLP over HTTP, in batches, from a thread of their own. Whoever ends a span
//! waits for nothing: it goes into a bounded queue, and what does not fit is dropped and counted. A collector that is away
//! costs no more than that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use metrics::counter;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter,
    SpanProcessor,
};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::config::Traces as Configured;
use crate::domain::meter;
use crate::net::Net;
use crate::trace::{Ids, Traces};

/// How many spans wait for the collector at most: some megabytes.
const QUEUE: usize = 4096;
/// How many go in one request.
const BATCH: usize = 512;
/// How long a span waits for company.
const EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch, tries and pauses together.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is left may take when the gateway stops.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What sends spans.
#[derive(Debug, Default)]
pub struct Sending {
    provider: Option<SdkTracerProvider>,
    closed: AtomicBool,
}

/// Makes spans as configured, and sends them.
pub fn open(config: &Configured, net: &Net) -> anyhow::Result<(Traces, Sending)> {
    let Some(collector) = config.collector() else { return Ok((Traces::default(), Sending::default())) };
    let client =
        Client { http: net.collector.clone(), runtime: Handle::current(), calls: TaskTracker::new() };
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(collector.as_str())
        .with_timeout(PATIENCE)
        .build()
        // Its own words may hold the address, and that a password.
        .ok()
        .context("traces: the exporter cannot be made; see the variables OTEL_EXPORTER_OTLP_*")?;
    let resource = Resource::builder()
        .with_service_name(config.service.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let provider = SdkTracerProvider::builder()
        .with_id_generator(Ids::default())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
        .with_resource(resource.build())
        .with_span_processor(Queue::before(exporter))
        .build();
    tracing::info!(host = collector.host_str(), sample = config.sample, "spans are sent to a collector");
    let traces = Traces::of(provider.tracer("easel"));
    Ok((traces, Sending { provider: Some(provider), closed: AtomicBool::new(false) }))
}

impl Sending {
    /// Sends what is left, for as long as that may take; spans that end later are nobody's.
    pub async fn close(&self) {
        let Some(provider) = self.provider.clone() else { return };
        self.closed.store(true, Ordering::Release);
        let closing = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_WORDS));
        if !matches!(closing.await, Ok(Ok(()))) {
            tracing::warn!("not all spans could be sent before the stop");
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take().filter(|_| !self.closed.load(Ordering::Acquire)) {
            // Whoever stops at once is not kept waiting by the library, which sends the rest when the last handle goes.
            std::mem::forget(provider);
        }
    }
}

/// The library's queue, with the bound made visible.
#[derive(Debug)]
struct Queue {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
}

impl Queue {
    fn before(exporter: impl SpanExporter + 'static) -> Self {
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter =
            Counted { inner: exporter, waiting: Arc::clone(&waiting), failing: AtomicBool::new(false) };
        let numbers = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EVERY)
            .build();
        Self { inner: BatchSpanProcessor::builder(exporter).with_batch_config(numbers).build(), waiting }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) < QUEUE {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            counter!(meter::SPANS, "outcome" => "dropped").increment(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what becomes of spans, and says once when the collector goes away and when it is back.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.waiting.fetch_sub(count, Ordering::AcqRel);
        let sent = self.inner.export(batch).await;
        let outcome = if sent.is_ok() { "exported" } else { "failed" };
        counter!(meter::SPANS, "outcome" => outcome).increment(count as u64);
        match (&sent, self.failing.swap(sent.is_err(), Ordering::AcqRel)) {
            (Err(error), false) => {
                tracing::warn!(%error, "the collector does not take spans; they are dropped until it does");
            }
            (Ok(()), true) => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Our client on our runtime, for a thread that has none.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
    calls: TaskTracker,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let call = self.calls.spawn_on(async move { http.send_bytes(request).await }, &self.runtime);
        let answer = call.await?;
        if let Some(error) = answer.as_ref().err().and_then(|error| error.downcast_ref::<reqwest::Error>()) {
            // The exporter keeps causes to itself. The address may carry a password: only what is below its line is told.
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::debug!(cause, "the collector was not reached");
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use opentelemetry::trace::{Span as _, Tracer};

    use super::*;

    /// A collector that takes a batch each time it is told to, and until then hangs.
    #[derive(Debug)]
    struct Slow(Mutex<Receiver<()>>);

    impl SpanExporter for Slow {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            // Whoever hangs up ends the waiting.
            let _ = self.0.lock().unwrap().recv();
            Ok(())
        }
    }

    fn hanging() -> (SdkTracerProvider, Sender<()>) {
        let (go, told) = channel();
        let queue = Queue::before(Slow(Mutex::new(told)));
        (SdkTracerProvider::builder().with_span_processor(queue).build(), go)
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (provider, go) = hanging();
        let tracer = provider.tracer("test");
        let recorder = PrometheusBuilder::new().build_recorder();
        let figures = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            for _ in 0..QUEUE + BATCH + 100 {
                tracer.start("a span").end();
            }
        });
        // What the first requests may have taken is out of the queue; nobody waited for any of it.
        let text = figures.render();
        let dropped =
            text.lines().find_map(|line| line.strip_prefix("easel_spans_total{outcome=\"dropped\"} "));
        let dropped: usize = dropped.expect("some were dropped").parse().unwrap();
        assert!((100..=BATCH + 100).contains(&dropped), "{dropped}");
        drop(go);
        provider.shutdown_with_timeout(Duration::from_mins(1)).unwrap();
    }

    #[test]
    fn a_stop_waits_no_longer_than_it_may() {
        let (provider, go) = hanging();
        provider.tracer("test").start("a span").end();
        assert!(provider.shutdown_with_timeout(Duration::from_millis(10)).is_err());
        drop(go);
    }
}
