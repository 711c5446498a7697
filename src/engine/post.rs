//! One letter on its way to its receiver: signed, posted, told of in its trace. Which letters go, and when, is `deliver.rs`.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VIA};

use super::Inner;
use crate::domain::clock::Millis;
use crate::domain::delivery::{Delivery, letter, tenant_signer};
use crate::domain::trace::Trace;
use crate::domain::view::view;
use crate::domain::webhook::{Rotation, Secret, signatures};
use crate::net::guarded::{FetchError, Receipt};
use crate::store::Change;
use crate::trace::{self, Span};

impl Inner {
    /// A letter is beneath its task; one that only tries an endpoint out is in no trace.
    pub(super) fn place_of_letter(&self, delivery: &Delivery, trace: Option<&Trace>) -> Span {
        let of = delivery.task.map(|task| task.to_string()).unwrap_or_default();
        self.traces.beneath(trace, &of)
    }

    /// Signs one letter and posts it from this place in its trace.
    pub(super) async fn post(
        &self,
        delivery: &Delivery,
        rotation: Rotation,
        at: Millis,
        place: Option<Trace>,
    ) -> Result<Receipt, FetchError> {
        let settings = &self.settings.webhooks;
        let secrets = rotation.secrets(&settings.key, &delivery.signer(), at);
        let mut headers = headers(&delivery.id.to_string(), at, &secrets, &delivery.body);
        if let Ok(via) = HeaderValue::from_str(&format!("1.1 {}", self.links.mark())) {
            headers.insert(VIA, via);
        }
        if let Some(place) = place {
            hand_on(&mut headers, &place);
        }
        let body = Bytes::from(delivery.body.clone());
        self.net.guarded.post(&delivery.url, headers, body, settings.timeout).await
    }

    /// The bug the chaos suite plants to see whether it would notice: a letter that is sent before what it tells is durable.
    pub(super) async fn send_too_early(&self, change: &Change) {
        let Some(own) = change.task.request.webhook.as_ref().filter(|_| change.task.parent.is_none()) else {
            return;
        };
        let now = self.clock.now();
        for notice in &change.notices {
            let seen = view(&change.task, &change.images, &self.links, now);
            let seen = serde_json::to_value(seen).unwrap_or_default();
            let body = letter(notice.name, now, Some(seen), &notice.data);
            let owner = tenant_signer(&change.task.tenant);
            let secrets = Rotation::default().secrets(&self.settings.webhooks.key, &owner, now);
            let headers = headers(&format!("evt_{}", notice.seq), now, &secrets, &body);
            let _ =
                self.net.guarded.post(&own.url, headers, body.into(), self.settings.webhooks.timeout).await;
        }
    }
}

/// What there is to say of one try in a trace. Of its address no more than the host.
pub(super) fn tell(span: &Span, delivery: &Delivery, answer: &Result<Receipt, FetchError>) {
    if !span.recorded() {
        return;
    }
    span.set("server.address", delivery.host());
    span.set("webhook.id", delivery.id.to_string());
    span.set("webhook.event", delivery.event.clone());
    span.set("webhook.try", i64::from(delivery.tries) + 1);
    match answer {
        Ok(receipt) => {
            span.set("http.response.status_code", i64::from(receipt.status));
            if !(200..300).contains(&receipt.status) {
                span.fail(receipt.status.to_string());
            }
        }
        Err(FetchError::Refused(_)) => span.fail("refused"),
        Err(_) => span.fail("unreachable"),
    }
}

/// The caller's trace goes on at its receiver.
fn hand_on(headers: &mut HeaderMap, place: &Trace) {
    for (name, value) in [(trace::PARENT, &place.parent), (trace::STATE, &place.state)] {
        if let Some(value) = HeaderValue::from_str(value).ok().filter(|value| !value.is_empty()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The three headers of the specification, beside the type.
fn headers(id: &str, at: Millis, secrets: &[Secret], body: &str) -> HeaderMap {
    let timestamp_s = at.0 / 1_000;
    let signed = signatures(secrets, id, timestamp_s, body);
    let values = [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp_s.to_string()),
        ("webhook-signature", signed),
    ];
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in values {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}
