//! Takes webhooks and checks them by the Standard Webhooks specification.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Listens; the channel gives each letter once, after its signature was found right.
pub async fn take(address: &str, secret: String) -> Result<mpsc::UnboundedReceiver<Value>> {
    let listener = TcpListener::bind(address).await?;
    let (letters, taken) = mpsc::unbounded_channel();
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let receive = async move |headers: HeaderMap, body: Bytes| match verify(&secret, &headers, &body) {
        Ok((id, letter)) => {
            // Delivered at least once: what was seen is acknowledged and dropped.
            if seen.lock().is_ok_and(|mut seen| seen.insert(id)) {
                let _ = letters.send(letter);
            }
            StatusCode::NO_CONTENT
        }
        Err(forged) => {
            println!("refused a webhook: {forged:#}");
            StatusCode::BAD_REQUEST
        }
    };
    tokio::spawn(async { axum::serve(listener, Router::new().route("/", post(receive))).await });
    Ok(taken)
}

/// A letter and its id, when one of its signatures holds over the bytes as they came.
fn verify(secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(String, Value)> {
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).context(name.to_owned());
    let (id, timestamp) = (said("webhook-id")?, said("webhook-timestamp")?);
    let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    ensure!(now.abs_diff(timestamp.parse()?) <= 300, "too old or too new");
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    // Several while a secret is being exchanged; one that holds is enough. The comparison takes the same time always.
    let mut signatures = said("webhook-signature")?.split(' ').filter_map(|one| one.strip_prefix("v1,"));
    let holds = signatures
        .any(|one| STANDARD.decode(one).is_ok_and(|given| mac.clone().verify_slice(&given).is_ok()));
    ensure!(holds, "no signature holds");
    Ok((id.to_owned(), serde_json::from_slice(body)?))
}
