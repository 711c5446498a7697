//! The client for paid calls, against servers made by hand: what it sends, how often, and what it knows when it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use easel::net::paid::{NotSent, Order, PaidError};
use easel::net::{Net, Policy, SystemLookup};
use http::HeaderMap;
use rstest::rstest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::harness::{Db, Gateway, listen};
use crate::process::refusing;

const AUTHORITY: &[u8] = include_bytes!("fixtures/authority.crt");
const CERTIFICATE: &[u8] = include_bytes!("fixtures/localhost.crt");
const KEY: &[u8] = include_bytes!("fixtures/localhost.key");

fn net(trusting: bool) -> Net {
    let authority = CertificateDer::from_pem_slice(AUTHORITY).unwrap().to_vec();
    let roots = if trusting { vec![authority] } else { Vec::new() };
    Net::open(Policy::default(), Arc::new(SystemLookup), roots).unwrap()
}

async fn post(net: &Net, url: &str) -> Result<u16, PaidError> {
    let order = Order {
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{\"prompt\":\"a cat\"}"),
        head_within: Duration::from_secs(10),
        not_after: Instant::now() + Duration::from_secs(30),
    };
    net.paid.post(order).await.map(|response| response.status().as_u16())
}

/// A server that would rather speak HTTP/2. There it reads the POST and says that it has not (GOAWAY), which makes default
/// clients send it again; in HTTP/1.1 it reads the POST and hangs up.
async fn reads_and_refuses(
    listener: TcpListener,
    posts: Arc<AtomicUsize>,
    spoken: Arc<std::sync::Mutex<Vec<String>>>,
) {
    let certificates = vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let protocol = stream
            .get_ref()
            .1
            .alpn_protocol()
            .map_or_else(|| "none".to_owned(), |name| String::from_utf8_lossy(name).into_owned());
        let mut read = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count) = stream.read(&mut piece).await
            && count > 0
        {
            read.extend_from_slice(&piece[..count]);
            if read.ends_with(b"a cat\"}") {
                posts.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
        spoken.lock().unwrap().push(protocol.clone());
        if protocol == "h2" {
            // SETTINGS, then GOAWAY with last stream 0: "I have processed nothing".
            let _ = stream
                .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
                .await;
        }
    }
}

#[tokio::test]
async fn a_refusal_after_reading_is_received_once_and_never_over_http2() {
    let listener = listen().await;
    let url = format!("https://localhost:{}/api/v1/task", listener.local_addr().unwrap().port());
    let (posts, spoken) = (Arc::new(AtomicUsize::new(0)), Arc::default());
    let server = TaskTracker::new();
    let serving = server.spawn(reads_and_refuses(listener, Arc::clone(&posts), Arc::clone(&spoken)));
    let error = post(&net(true), &url).await.unwrap_err();
    assert!(matches!(error, PaidError::Unknown { sent, .. } if sent > 0), "{error}");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
    assert!(spoken.lock().unwrap().iter().all(|protocol| protocol != "h2"), "{spoken:?}");
    // A certificate nobody vouches for: nothing is sent.
    let error = post(&net(false), &url).await.unwrap_err();
    assert!(matches!(error, PaidError::NotSent { cause: NotSent::Certificate, .. }), "{error}");
    let error = post(&net(true), &url.replace("localhost", "127.0.0.2")).await.unwrap_err();
    assert!(matches!(error, PaidError::NotSent { .. }), "{error}");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
    serving.abort();
}

#[tokio::test]
async fn what_never_left_is_known_not_to_have_left() {
    let net = net(false);
    let (_held, closed) = refusing();
    for (url, expected) in [
        (format!("http://{closed}/x"), NotSent::Connect),
        ("https://nowhere.invalid/x".to_owned(), NotSent::Name),
    ] {
        let error = post(&net, &url).await.unwrap_err();
        assert!(matches!(&error, PaidError::NotSent { cause, .. } if *cause == expected), "{url}: {error}");
    }
    // TLS spoken to somebody who does not.
    let plain = listen().await;
    let url = format!("https://{}/x", plain.local_addr().unwrap());
    let server = TaskTracker::new();
    let serving = server.spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = post(&net, &url).await.unwrap_err();
    assert!(matches!(error, PaidError::NotSent { cause: NotSent::Tls, .. }), "{error}");
    serving.abort();
}

/// R7: a request that broke off on its way is not known not to have arrived.
#[tokio::test]
async fn a_request_cut_in_the_middle_is_of_unknown_outcome() {
    let listener = listen().await;
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let server = TaskTracker::new();
    let serving = server.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read_exact(&mut [0; 512]).await;
        }
    });
    let order = Order {
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from(vec![b'x'; 32 * 1024 * 1024]),
        head_within: Duration::from_secs(10),
        not_after: Instant::now() + Duration::from_secs(30),
    };
    let error = net(false).paid.post(order).await.map(|response| response.status()).unwrap_err();
    assert!(matches!(error, PaidError::Unknown { sent, .. } if sent > 0), "{error}");
    serving.abort();
}

/// R3 and R4 as a task meets them: tried again, or not, and unbilled.
#[rstest]
#[tokio::test]
async fn a_provider_without_a_trusted_session_is_sent_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let listener = listen().await;
    let port = listener.local_addr().unwrap().port();
    let (posts, spoken) = (Arc::new(AtomicUsize::new(0)), Arc::default());
    let server = TaskTracker::new();
    let serving = server.spawn(reads_and_refuses(listener, Arc::clone(&posts), spoken));
    let plain = listen().await;
    let mute = plain.local_addr().unwrap().port();
    let answering = server.spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for (port, sends) in [(port, 1), (mute, 3)] {
        let provider = format!(
            "[providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"https://localhost:{port}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\n"
        );
        let gateway = Gateway::only(db, &provider).await;
        let task = gateway.run(r#"{"prompt":"a cat","model":"flux-schnell"}"#).await;
        assert_eq!(
            (task["error"]["code"].as_str(), task["cost"]["billed"].as_str()),
            (Some("provider_unreachable"), Some("no")),
            "{task}"
        );
        let attempts = gateway.attempts(task["id"].as_str().unwrap()).await;
        assert!(attempts.iter().all(|attempt| attempt["state"] == "not_sent"), "{attempts:?}");
        assert_eq!(attempts.len(), sends);
        gateway.stop().await;
    }
    assert_eq!(posts.load(Ordering::SeqCst), 0);
    serving.abort();
    answering.abort();
}
