//! U21: providers whose TLS proves nothing. Each stands as a door before the simulator, whose ledger says what got through:
//! nothing, until the door shows a certificate that is in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
};
use reqwest::StatusCode;
use rstest::rstest;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::harness::{Db, Gateway, listen};

const PROMPT: &str = "a cat behind a door";

/// TLS 1.0's answer to a greeting: that version, a random number of zeros, TLS_RSA_WITH_AES_128_CBC_SHA.
const OLD_HELLO: &[u8] = &[
    0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x2f, 0, 0,
];
/// What a server that speaks nothing newer says instead: a fatal alert in TLS 1.0, protocol_version.
const OLD_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 70];
/// The record of a refusal.
const ALERT: u8 = 0x15;

/// Who signs what the gateway is told to trust.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A file, in this folder, that tells whom to trust.
    pub fn write(&self, folder: &Path) -> String {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join("authority.pem");
        std::fs::write(&file, pem("CERTIFICATE", self.0.der())).unwrap();
        file.display().to_string()
    }

    /// Its own certificate.
    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// A certificate for a host, in order but for what is done to it, and its key.
    pub fn issue(&self, host: &str, spoil: impl FnOnce(&mut CertificateParams)) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        spoil(&mut params);
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// The same, shown at a door.
    fn signed(&self, host: &str, spoil: impl FnOnce(&mut CertificateParams)) -> Shown {
        let (certificate, key) = self.issue(host, spoil);
        Shown::certificate(certificate.der().clone(), &key)
    }
}

/// DER as text, in lines that every reader takes.
pub fn pem(what: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap());
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.collect::<Vec<_>>().join("\n"))
}

/// What a door shows to whoever knocks.
#[derive(Clone)]
enum Shown {
    Certificate(Arc<ServerConfig>),
    /// These bytes in answer to a greeting.
    Bytes(&'static [u8]),
}

impl Shown {
    fn certificate(certificate: CertificateDer<'static>, key: &KeyPair) -> Self {
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        Self::Certificate(Arc::new(config))
    }

    fn signed_by_itself() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        Self::certificate(params.self_signed(&key).unwrap().der().clone(), &key)
    }
}

/// A TLS server that passes on to the simulator what comes through.
#[derive(Clone)]
struct Door {
    port: u16,
    shown: Arc<Mutex<Shown>>,
    behind: Arc<Mutex<Option<SocketAddr>>>,
    /// Who knocked, and who came in.
    knocks: Arc<AtomicUsize>,
    sessions: Arc<AtomicUsize>,
    /// What was said after an answer of mere bytes.
    heard: Arc<Mutex<Vec<u8>>>,
    open: TaskTracker,
}

impl Door {
    async fn showing(shown: Shown) -> Self {
        let listener = listen().await;
        let door = Self {
            port: listener.local_addr().unwrap().port(),
            shown: Arc::new(Mutex::new(shown)),
            behind: Arc::default(),
            knocks: Arc::default(),
            sessions: Arc::default(),
            heard: Arc::default(),
            open: TaskTracker::new(),
        };
        door.open.spawn(door.clone().serve(listener));
        door
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            self.knocks.fetch_add(1, Ordering::SeqCst);
            let (door, shown) = (self.clone(), self.shown.lock().unwrap().clone());
            self.open.spawn(async move {
                match shown {
                    Shown::Certificate(config) => door.lead_in(config, stream).await,
                    Shown::Bytes(bytes) => door.answer(bytes, stream).await,
                }
            });
        }
    }

    async fn lead_in(self, config: Arc<ServerConfig>, stream: TcpStream) {
        let Ok(mut inside) = TlsAcceptor::from(config).accept(stream).await else { return };
        self.sessions.fetch_add(1, Ordering::SeqCst);
        let behind = self.behind.lock().unwrap().unwrap();
        let mut behind = TcpStream::connect(behind).await.unwrap();
        let _ = copy_bidirectional(&mut inside, &mut behind).await;
    }

    async fn answer(self, bytes: &[u8], mut stream: TcpStream) {
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let mut greeting = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut greeting).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        self.heard.lock().unwrap().extend(rest);
    }

    /// A gateway whose account for Flux is behind this door, and others in the open.
    async fn gateway(&self, db: Db, authority: &Authority, folder: &Path, others: &[&str]) -> Gateway {
        let account = |kind: &str, base: &str| {
            format!(
                "[providers.{kind}]\nkind = \"{kind}\"\nbase_url = \"{base}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\npoll_after_s = 0.05\n"
            )
        };
        let mut config = account("piapi_flux", &format!("https://localhost:{}", self.port));
        config.extend(others.iter().map(|kind| account(kind, "{upstream}")));
        let net = "[net]\nallow_private = [\"127.0.0.1/32\"]\nallow_http = true\n";
        let trusted = authority.write(folder);
        let gateway = Gateway::only(db, &format!("{config}{net}extra_ca_file = \"{trusted}\"\n")).await;
        let behind = gateway.simulator.url();
        *self.behind.lock().unwrap() = Some(behind.strip_prefix("http://").unwrap().parse().unwrap());
        gateway
    }
}

fn body(model: &str) -> String {
    json!({"prompt": PROMPT, "model": model, "size": "64x64"}).to_string()
}

async fn health(gateway: &Gateway) -> Value {
    let lanes = gateway.get("/providers").await.json();
    lanes["data"].as_array().unwrap().iter().find(|lane| lane["id"] == "piapi_flux").unwrap()["health"]
        .clone()
}

fn expired(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(2020, 1, 1);
}

/// R4, and R3 where no session comes about at all: nothing is sent, nothing is billed, and the circuit opens: at once where
/// somebody else answers, after the fifth failure in a row where TLS fails.
#[rstest]
#[tokio::test]
async fn a_provider_that_does_not_prove_who_it_is_is_sent_nothing(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    for (case, shown, sends) in [
        ("expired", authority.signed("localhost", expired), 1),
        ("signed by itself", Shown::signed_by_itself(), 1),
        ("another host's", authority.signed("elsewhere.example", |_| ()), 1),
        ("a hello of TLS 1.0", Shown::Bytes(OLD_HELLO), 3),
        ("an alert of TLS 1.0", Shown::Bytes(OLD_ALERT), 3),
    ] {
        let door = Door::showing(shown).await;
        let gateway = door.gateway(db, &authority, folder.path(), &[]).await;
        let refused = async || {
            let task = gateway.run(&body("piapi_flux/Qubico/flux1-schnell")).await;
            let attempts = gateway.attempts(task["id"].as_str().unwrap()).await;
            assert_eq!(
                (task["error"]["code"].as_str(), task["cost"]["billed"].as_str()),
                (Some("provider_unreachable"), Some("no")),
                "{case}: {task}"
            );
            assert!(attempts.iter().all(|attempt| attempt["state"] == "not_sent"), "{case}: {attempts:?}");
            attempts.len()
        };
        assert_eq!(refused().await, sends, "{case}");
        if sends > 1 {
            assert_eq!(health(&gateway).await, "healthy", "{case}: three failures in a row prove little");
            assert_eq!(refused().await, sends, "{case}");
        }
        assert_eq!(health(&gateway).await, "open", "{case}");
        let turned_away = gateway.post("/generate", &body("flux-schnell")).await;
        assert_eq!(
            (turned_away.status, &turned_away.json()["code"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("no_provider_available")),
            "{case}"
        );
        assert!(door.knocks.load(Ordering::SeqCst) >= sends, "{case}: the provider was asked");
        assert_eq!((gateway.receptions(), door.sessions.load(Ordering::SeqCst)), (0, 0), "{case}");
        let heard = door.heard.lock().unwrap().clone();
        assert!(matches!(heard.first(), None | Some(&ALERT)), "{case}: {heard:?}");
        assert!(!String::from_utf8_lossy(&heard).contains(PROMPT), "{case}: {heard:?}");
        gateway.stop().await;
    }
}

/// The next route takes over, the tasks after it do not knock any more, and one of them finds the door in order again.
#[rstest]
#[tokio::test]
async fn an_expired_certificate_sends_tasks_elsewhere_until_it_is_renewed(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let door = Door::showing(authority.signed("localhost", expired)).await;
    let gateway = door.gateway(db, &authority, folder.path(), &["imagepipeline"]).await;
    for attempts in [2, 1] {
        let task = gateway.run(&body("flux-schnell")).await;
        assert_eq!(
            (task["status"].as_str(), task["route"]["provider"].as_str()),
            (Some("succeeded"), Some("imagepipeline")),
            "{task}"
        );
        assert_eq!(gateway.attempts(task["id"].as_str().unwrap()).await.len(), attempts);
    }
    assert_eq!((gateway.receptions(), door.sessions.load(Ordering::SeqCst)), (2, 0));
    *door.shown.lock().unwrap() = authority.signed("localhost", |_| ());
    gateway.clock.advance(Duration::from_secs(31));
    let task = gateway.run(&body("piapi_flux/Qubico/flux1-schnell")).await;
    assert_eq!((task["status"].as_str(), gateway.receptions()), (Some("succeeded"), 3), "{task}");
    assert!(door.sessions.load(Ordering::SeqCst) > 0);
    assert_eq!(health(&gateway).await, "healthy");
    gateway.stop().await;
}
