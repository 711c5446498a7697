//! Providers' links to results: what they may hold that a caller's address may not, who sees the credentials
//! in them, and when plain http is spoken. That they lead nowhere that is closed is shown in `outbound.rs`.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use easel::net::guarded::{FetchError, MAX_RETRY_AFTER};
use easel::net::policy::Refused;
use easel::net::result_link::MAX_RESULT_LINK;
use easel::net::{Guarded, Lookup, Net, Policy};
use futures_util::TryStreamExt;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::outbound::{Home, guarded};
use crate::tls::Authority;

/// What a server answers to a request's head, over TLS or not.
type Answer = dyn Fn(&str, bool) -> String + Send + Sync;

/// A server on 127.0.0.2 that writes down what it is asked; it speaks plain HTTP, and TLS where it has a
/// certificate.
struct Host {
    port: u16,
    /// Whether it came over TLS, and the head of the request.
    asked: Arc<Mutex<Vec<(bool, String)>>>,
}

impl Host {
    async fn start(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&str, bool) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, writes): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&asked));
        let tasks = TaskTracker::new();
        let serving = tasks.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, asked) = (tls.clone(), Arc::clone(&answer), Arc::clone(&writes));
                serving.spawn(async move {
                    let mut first = [0];
                    let greets = matches!(stream.peek(&mut first).await, Ok(1) if first[0] == 0x16);
                    match tls {
                        Some(tls) if greets => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            converse(stream, true, &*answer, &asked).await;
                        }
                        _ => converse(stream, false, &*answer, &asked).await,
                    }
                });
            }
        });
        Self { port, asked }
    }

    /// What was asked since the last time, over TLS or not.
    fn asked(&self) -> Vec<(bool, String)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn converse<S>(mut stream: S, tls: bool, answer: &Answer, asked: &Mutex<Vec<(bool, String)>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            // A greeting of TLS is nothing to a plain server.
            Ok(byte) if !head.is_empty() || byte.is_ascii_uppercase() => head.push(byte),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let answer = answer(&head, tls);
    asked.lock().unwrap().push((tls, head));
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn answer(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: 4\r\n\r\nhere")
}

fn redirect(to: &str) -> String {
    answer("302 Found", &format!("location: {to}\r\n"))
}

fn acceptor(authority: &Authority, host: &str) -> TlsAcceptor {
    let (certificate, key) = authority.issue(host, |_| ());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

/// A client to which every name is at 127.0.0.2. Callers' plain http is off: it has no say here.
fn client(authority: &Authority) -> Guarded {
    let policy = Policy { allow_private: vec!["127.0.0.2/32".parse().unwrap()], allow_http: false };
    Net::open(policy, Arc::new(Home) as Arc<dyn Lookup>, vec![authority.der()]).unwrap().guarded
}

async fn get(client: &Guarded, link: &str, allow_http: bool) -> Result<Bytes, FetchError> {
    let body = client.get_result(link, allow_http).await?.body(1_000);
    Ok(body.try_collect::<Vec<_>>().await?.concat().into())
}

fn authorization(head: &str) -> Option<&str> {
    head.lines().find_map(|line| line.strip_prefix("authorization: "))
}

/// user:pass%2Fword, percent-decoded.
const BASIC: &str = "Basic dXNlcjpwYXNzL3dvcmQ=";

/// The server that a link names sees its credentials. Redirects' targets do not, not even on the same server;
/// nobody is told where they were sent from.
#[tokio::test]
async fn credentials_are_shown_to_the_first_server_alone() {
    let authority = Authority::new();
    let second = Host::start(Some(acceptor(&authority, "second.example")), |_, _| answer("200 OK", "")).await;
    let elsewhere = format!("https://second.example:{}/b", second.port);
    let with_more = format!("https://other:secret@second.example:{}/c", second.port);
    let first = Host::start(Some(acceptor(&authority, "first.example")), move |head, _| {
        match head.split(' ').nth(1).unwrap() {
            "/a?sig=%2B%2F" => redirect(&elsewhere),
            "/more" => redirect(&with_more),
            "/again" => redirect("/same"),
            _ => answer("200 OK", ""),
        }
    })
    .await;
    let client = client(&authority);
    for (path, at_first, at_second) in [
        ("/plain", vec![Some(BASIC)], 0),
        ("/a?sig=%2B%2F", vec![Some(BASIC)], 1),
        ("/more", vec![Some(BASIC)], 1),
        ("/again", vec![Some(BASIC), None], 0),
    ] {
        // Over TLS first, where plain http is named: the same host, better kept.
        for (scheme, allow_http) in [("https", false), ("http", false), ("http", true)] {
            let link = format!("{scheme}://user:pass%2Fword@first.example:{}{path}#part", first.port);
            assert_eq!(get(&client, &link, allow_http).await.unwrap(), "here", "{path}");
            let asked = first.asked();
            assert!(asked.iter().all(|(tls, _)| *tls));
            assert_eq!(
                asked.iter().map(|(_, head)| authorization(head)).collect::<Vec<_>>(),
                at_first,
                "{path}"
            );
            assert!(asked[0].1.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{}", asked[0].1);
            let led = second.asked();
            assert_eq!(led.len(), at_second, "{path}");
            assert!(led.iter().all(|(_, head)| authorization(head).is_none()), "{led:?}");
            for (_, head) in asked.into_iter().chain(led) {
                let mut names: Vec<_> =
                    head.lines().skip(1).filter_map(|line| line.split_once(": ")).collect();
                names.retain(|(name, _)| *name != "authorization");
                let mut names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
                names.sort_unstable();
                assert_eq!(names, ["accept", "accept-encoding", "host", "user-agent"], "{head}");
            }
        }
    }
}

/// TLS comes first for every link; plain http is spoken where it is allowed and TLS fails, and never after
/// TLS has led there.
#[tokio::test]
async fn plain_http_is_spoken_only_where_it_is_allowed_and_only_after_tls() {
    let authority = Authority::new();
    let (client, closed) = (client(&authority), Err(FetchError::Refused(Refused::Redirect("out of TLS"))));
    let shape = |fetched: &Result<Bytes, FetchError>| format!("{fetched:?}");
    // Of TLS alone.
    let plain = Host::start(None, |_, _| answer("200 OK", "")).await;
    let link = format!("http://plain.example:{}/a", plain.port);
    assert!(matches!(get(&client, &link, false).await, Err(FetchError::Broken(_))));
    assert_eq!(plain.asked().len(), 0, "nothing was said in plain http");
    assert_eq!(get(&client, &link, true).await.unwrap(), "here");
    let secure = link.replace("http:", "https:");
    assert!(matches!(get(&client, &secure, true).await, Err(FetchError::Broken(_))));
    assert_eq!(plain.asked().iter().map(|(tls, _)| *tls).collect::<Vec<_>>(), [false]);
    // A caller's address to plain http stays refused as it was.
    assert!(matches!(client.get(&link).await, Err(FetchError::Refused(Refused::Syntax("scheme")))));
    // Over TLS it leads out of TLS, in plain http it has the image.
    let sly = Host::start(Some(acceptor(&authority, "sly.example")), |head, tls| {
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        if tls { redirect(&format!("http://{host}/there")) } else { answer("200 OK", "") }
    })
    .await;
    let link = format!("sly.example:{}/a", sly.port);
    for (scheme, allow_http, wanted, spoken) in [
        ("https", false, &closed, vec![true]),
        ("https", true, &closed, vec![true]),
        ("http", false, &closed, vec![true]),
        ("http", true, &Ok("here".into()), vec![true, false]),
    ] {
        let fetched = get(&client, &format!("{scheme}://{link}"), allow_http).await;
        assert_eq!(shape(&fetched), shape(wanted), "{scheme} {allow_http}");
        assert_eq!(
            sly.asked().iter().map(|(tls, _)| *tls).collect::<Vec<_>>(),
            spoken,
            "{scheme} {allow_http}"
        );
    }
    // From plain http into TLS, and not back.
    let to = format!("https://sly.example:{}/a", sly.port);
    let leading = Host::start(None, move |_, _| redirect(&to)).await;
    let fetched = get(&client, &format!("http://leading.example:{}/", leading.port), true).await;
    assert_eq!(shape(&fetched), shape(&closed));
    assert_eq!((leading.asked().len(), sly.asked().len()), (1, 1));
    // No more than three, over TLS and again without.
    let round = Host::start(Some(acceptor(&authority, "round.example")), |_, _| redirect("/again")).await;
    let fetched = get(&client, &format!("http://round.example:{}/", round.port), true).await;
    assert!(matches!(fetched, Err(FetchError::TooManyRedirects)), "{fetched:?}");
    assert_eq!(
        round.asked().iter().map(|(tls, _)| *tls).collect::<Vec<_>>(),
        [[true; 4], [false; 4]].concat()
    );
}

/// A failed fetch says how long the server asks us to stay away, within reason, and a server that asks is
/// left alone.
#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let authority = Authority::new();
    let busy = Host::start(Some(acceptor(&authority, "busy.example")), |head, _| {
        let (status, pause) = head.split(' ').nth(1).unwrap()[1..].split_once('/').unwrap();
        answer(&format!("{status} No"), &format!("retry-after: {}\r\n", pause.replace('_', " ")))
    })
    .await;
    let client = client(&authority);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (path, status, pause) in [
        ("429/7", 429, seconds(7)),
        ("503/0", 503, seconds(0)),
        ("503/99999999", 503, Some(MAX_RETRY_AFTER)),
        ("429/soon", 429, None),
        ("404/7", 404, None),
        ("500/7", 500, None),
    ] {
        let fetched = get(&client, &format!("http://busy.example:{}/{path}", busy.port), true).await;
        let Err(FetchError::Status { status: said, retry_after }) = fetched else { panic!("{fetched:?}") };
        assert_eq!((said, retry_after), (status, pause), "{path}");
        assert_eq!(busy.asked().len(), if pause.is_some() { 1 } else { 2 }, "{path}");
    }
}

/// What is sent is what the vendor wrote, escaped where it must be and nowhere else.
#[tokio::test]
async fn a_long_and_untidy_link_arrives_as_it_was_meant() {
    let authority = Authority::new();
    let host = Host::start(Some(acceptor(&authority, "host.example")), |_, _| answer("200 OK", "")).await;
    let client = client(&authority);
    let base = format!("host.example:{}", host.port);
    let long = "%2Fx".repeat(4_000);
    for (written, sent) in [
        (format!("https://{base}/a?{long}"), format!("/a?{long}")),
        (
            format!(" <https://{base}/a cat [1].png?X-Sig=a%2Bb&amp;e=1#x>\n"),
            "/a%20cat%20[1].png?X-Sig=a%2Bb&e=1".into(),
        ),
        (format!("//{base}/кот"), "/%D0%BA%D0%BE%D1%82".into()),
    ] {
        assert_eq!(get(&client, &written, false).await.unwrap(), "here", "{written}");
        let (_, head) = host.asked().remove(0);
        assert!(head.starts_with(&format!("GET {sent} HTTP/1.1\r\n")), "{head}");
    }
    let longer = format!("https://{base}/{}", "x".repeat(MAX_RESULT_LINK));
    let fetched = get(&client, &longer, false).await;
    assert!(matches!(fetched, Err(FetchError::Refused(Refused::Syntax("too long")))), "{fetched:?}");
}

/// Errors tell what may heal from what cannot.
#[tokio::test]
async fn refusals_by_spelling_and_by_address_are_told_apart() {
    let (guarded, _) = guarded();
    for link in ["ftp://h.example/", "https://h.example:22/", "https://10.0.0.1/", "a cat"] {
        let fetched = get(&guarded, link, true).await;
        assert!(matches!(fetched, Err(FetchError::Refused(Refused::Syntax(_)))), "{link}: {fetched:?}");
    }
    for link in ["https://loopback.example/", "http://mixed.example:81/", "//user:pass@foo.internal/a"] {
        let fetched = get(&guarded, link, true).await;
        assert!(matches!(fetched, Err(FetchError::Refused(Refused::Address))), "{link}: {fetched:?}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Neither errors nor logs, down to the last detail, hold credentials or the rest of a link.
#[tokio::test]
async fn credentials_are_written_nowhere() {
    let authority = Authority::new();
    let host = Host::start(Some(acceptor(&authority, "host.example")), |head, _| {
        match head.split(' ').nth(1).unwrap() {
            "/gone?sig=s3cr3t" => answer("404 Not Found", ""),
            "/closed?sig=s3cr3t" => redirect("https://user:pass%2Fword@10.0.0.1/?sig=s3cr3t"),
            "/round?sig=s3cr3t" => redirect("/round?sig=s3cr3t"),
            _ => answer("200 OK", ""),
        }
    })
    .await;
    let client = client(&authority);
    let log = Log::default();
    let writer = log.clone();
    let logging = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let logging = tracing::subscriber::set_default(logging);
    tracing::info!("it is written");
    let port = host.port;
    let mut said = Vec::new();
    for link in ["/a", "/gone", "/closed", "/round"]
        .map(|path| format!("host.example:{port}{path}"))
        .into_iter()
        .chain([
            "other.example:1/".to_owned(),
            format!("wrong.example:{port}/"),
            "10.0.0.1/".into(),
            "host.example:22/".into(),
        ])
    {
        for (scheme, allow_http) in [("https", false), ("http", true)] {
            let link = format!("{scheme}://user:pass%2Fword@{link}?sig=s3cr3t");
            said.push(match get(&client, &link, allow_http).await {
                Ok(body) => format!("{body:?}"),
                Err(error) => format!("{error} {error:?}"),
            });
        }
    }
    drop(logging);
    said.push(String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned());
    let said = said.join("\n");
    assert!(said.contains("it is written") && said.contains("404"), "{said}");
    for secret in ["pass", "s3cr3t", BASIC.strip_prefix("Basic ").unwrap()] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
}
