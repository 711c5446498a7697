//! A collector of traces: takes what an OpenTelemetry exporter sends, and keeps every span and every byte.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::{PATIENCE, listen};

/// A span that came.
#[derive(Debug, Clone)]
pub struct Told {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// The span it is beneath; empty for a trace's first.
    pub parent: String,
    pub kind: SpanKind,
    pub says: BTreeMap<String, String>,
    /// What the program says of itself.
    pub service: BTreeMap<String, String>,
}

struct Inside {
    /// `None`: it never answers.
    status: Option<StatusCode>,
    spans: Mutex<Vec<Told>>,
    bytes: Mutex<Vec<u8>>,
    came: watch::Sender<usize>,
}

/// A running collector.
pub struct Collector {
    pub url: String,
    inside: Arc<Inside>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::answering(Some(StatusCode::OK)).await
    }

    /// One that takes requests and never answers.
    pub async fn hanging() -> Self {
        Self::answering(None).await
    }

    pub async fn answering(status: Option<StatusCode>) -> Self {
        let listener = listen().await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let came = watch::Sender::new(0);
        let inside = Arc::new(Inside { status, spans: Mutex::default(), bytes: Mutex::default(), came });
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&inside));
        TaskTracker::new().spawn(easel::server::serve(listener, router, CancellationToken::new()));
        Self { url, inside }
    }

    /// The configuration that sends spans here.
    pub fn configuration(&self) -> String {
        format!("[traces]\nendpoint = \"{}\"\n", self.url)
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Told> {
        self.inside.spans.lock().unwrap().clone()
    }

    /// Those of one trace.
    pub fn trace(&self, id: &str) -> Vec<Told> {
        self.spans().into_iter().filter(|span| span.trace == id).collect()
    }

    /// Every byte so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.inside.bytes.lock().unwrap().clone()
    }

    /// Waits until `enough` of what came.
    pub async fn wait_until(&self, enough: impl Fn(&[Told]) -> bool) {
        let mut came = self.inside.came.subscribe();
        let waiting = came.wait_for(|_| enough(&self.inside.spans.lock().unwrap()));
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        let names: Vec<_> = self.spans().into_iter().map(|span| span.name).collect();
        assert!(waited.is_ok(), "not all spans came: {names:?}");
    }
}

async fn take(State(inside): State<Arc<Inside>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let Some(status) = inside.status else { return std::future::pending().await };
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    inside.bytes.lock().unwrap().extend_from_slice(&body);
    for group in request.resource_spans {
        let service = texts(group.resource.unwrap_or_default().attributes);
        for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            inside.spans.lock().unwrap().push(told(span, &service));
        }
    }
    inside.came.send_modify(|came| *came += 1);
    status
}

fn told(span: Span, service: &BTreeMap<String, String>) -> Told {
    assert!(span.events.is_empty(), "only what was meant for a trace is in it: {:?}", span.events);
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{}", span.name);
    Told {
        kind: span.kind(),
        name: span.name,
        trace: hex::encode(span.trace_id),
        id: hex::encode(span.span_id),
        parent: hex::encode(span.parent_span_id),
        says: texts(span.attributes),
        service: service.clone(),
    }
}

fn texts(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("neither a text nor a number: {other:?}"),
    };
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}
