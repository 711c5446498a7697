//! What every adapter is put through by its own tests: each fixture travels over a socket into the adapter, and what the
//! adapter makes of it is written down in one line. A fixture nobody expects anything of is a failure.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{
    Account, Asked, ImageSource, Inputs, Job, KINDS, Options, Progress, Provider, ProviderError, Rows, Wire,
};
use crate::domain::attempt::Verdict;
use crate::domain::clock::{Millis, TestClock};
use crate::domain::fit::fit;
use crate::domain::id::AttemptId;
use crate::domain::image::ImageKind;
use crate::domain::request::GenerateRequest;
use crate::net::{Net, Policy, SystemLookup};
use crate::spool::Spool;

/// A canned answer.
pub struct Canned<'a> {
    pub status: u16,
    pub content_type: &'a str,
    pub body: &'a [u8],
    /// Cut the connection after this many bytes of the body.
    pub cut: Option<usize>,
}

impl<'a> Canned<'a> {
    /// A body as a fixture's ending says it travels.
    pub fn of(name: &str, body: &'a [u8], status: u16) -> Self {
        let content_type = match name.rsplit('.').next() {
            Some("sse") => "text/event-stream",
            Some("txt") => "text/plain",
            _ => "application/json",
        };
        Self { status, content_type, body, cut: None }
    }
}

/// Serves one canned answer, in pieces of `piece` bytes, to whoever asks first.
async fn serve(canned: &Canned<'_>, piece: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let head = format!(
        "HTTP/1.1 {} X\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        canned.status,
        canned.content_type,
        canned.body.len()
    );
    let body = canned.body[..canned.cut.unwrap_or(canned.body.len())].to_vec();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = listener.into_std().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 256 * 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(head.as_bytes()).await;
            for piece in body.chunks(piece.max(1)) {
                let _ = stream.write_all(piece).await;
                let _ = stream.flush().await;
            }
            let _ = stream.shutdown().await;
        });
    });
    url
}

/// A spool that goes with the test's process.
pub fn spool() -> Spool {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap());
    Spool::open(folder.path(), u64::MAX).unwrap()
}

/// An adapter whose upstream is at `base`.
pub fn adapter(kind: &str, dialect: Option<&str>, base: &str) -> Arc<dyn Provider> {
    let entry = KINDS.iter().find(|entry| entry.name == kind).unwrap();
    let account = Account {
        id: kind.to_owned(),
        base: base.parse().unwrap(),
        key: SecretString::from("upstream-secret-key"),
        key_header: None,
        timeout: Duration::from_secs(5),
        poll_after: None,
        poll_max: None,
        reconcile: None,
        net: Net::open(Policy::default(), Arc::new(SystemLookup), Vec::new()).unwrap(),
        rows: Rows::read(entry.errors, kind).unwrap(),
        strange: Arc::default(),
        spool: spool(),
        max_answer: 64 * 1024 * 1024,
        allow_http_results: false,
    };
    (entry.open)(account, &Options { dialect: dialect.map(str::to_owned) }).unwrap()
}

/// What the adapter makes of a canned answer to a submission of `body` by the offer `form`.
pub async fn submit(
    kind: &str,
    dialect: Option<&str>,
    form: &str,
    body: &str,
    canned: &Canned<'_>,
    piece: usize,
) -> String {
    let adapter = adapter(kind, dialect, &serve(canned, piece).await);
    let (job, inputs) = job(adapter.as_ref(), form, body);
    let job = job.view(&inputs);
    let (signals, mut heard) = mpsc::channel(1_000);
    let told = adapter.submit(&job, &signals).await;
    drop(signals);
    let mut early = 0;
    while let Some(signal) = heard.recv().await {
        early += u32::from(matches!(signal, super::Signal::Image(_)));
    }
    let early = if early > 0 { ", kept early" } else { "" };
    format!("{}{early}", summary(&told.outcome))
}

/// What the adapter makes of a canned answer to a poll.
pub async fn check(
    kind: &str,
    dialect: Option<&str>,
    handle: &str,
    prompt: &str,
    canned: &Canned<'_>,
) -> String {
    check_named(kind, dialect, handle, prompt, None, canned).await
}

/// The same for a job that only a callback to this address named.
pub async fn check_named(
    kind: &str,
    dialect: Option<&str>,
    handle: &str,
    prompt: &str,
    callback: Option<&str>,
    canned: &Canned<'_>,
) -> String {
    let adapter = adapter(kind, dialect, &serve(canned, usize::MAX).await);
    let request = GenerateRequest { prompt: prompt.to_owned(), ..GenerateRequest::default() };
    let asked = Asked { handle, request: &request, provider_model: "", sent: &[], callback };
    summary(&adapter.check(&asked).await.outcome)
}

/// The request an adapter would send for a `/generate` body.
pub fn wire(kind: &str, dialect: Option<&str>, form: &str, body: &str) -> Wire {
    let adapter = adapter(kind, dialect, "http://127.0.0.1:9");
    let (job, inputs) = job(adapter.as_ref(), form, body);
    adapter.request(&job.view(&inputs))
}

/// A job's owned parts.
struct Fitted {
    attempt: AttemptId,
    request: GenerateRequest,
    provider_model: String,
    form: String,
    options: Option<serde_json::Map<String, Value>>,
}

impl Fitted {
    fn view<'a>(&'a self, inputs: &'a Inputs) -> Job<'a> {
        Job {
            attempt: self.attempt,
            request: &self.request,
            provider_model: &self.provider_model,
            form: &self.form,
            options: self.options.as_ref(),
            inputs,
            callback: None,
            not_after: Instant::now() + Duration::from_mins(1),
        }
    }
}

fn job(adapter: &dyn Provider, form: &str, body: &str) -> (Fitted, Inputs) {
    let request: GenerateRequest = serde_json::from_str(body).unwrap();
    let id = adapter.account().id.clone();
    let named = |model: &str| request.model.as_deref().is_none_or(|wanted| wanted == model);
    let routes = adapter.routes().iter().filter(|route| named(&route.model));
    let (route, offer) = routes
        .flat_map(|route| route.offers.iter().map(move |offer| (route, offer)))
        .find(|(route, offer)| offer.form == form && fit(route, offer, &request, &id).is_ok())
        .unwrap_or_else(|| panic!("no {form} offer takes {body}"));
    let fit = fit(route, offer, &request, &id).unwrap();
    let inputs = Inputs::sketch(&fit.request, offer);
    let fitted = Fitted {
        attempt: AttemptId::mint(&TestClock::at(Millis(1))),
        options: fit.request.provider_options.get(&id).cloned(),
        request: fit.request,
        provider_model: route.provider_model.clone(),
        form: form.to_owned(),
    };
    (fitted, inputs)
}

/// One line about what an adapter made of an answer.
pub fn summary(told: &Result<Progress, ProviderError>) -> String {
    let bill = |verdict: &Verdict| {
        let charged = verdict.charged.map(|usd| format!(" ${usd}")).unwrap_or_default();
        format!("billed {}{charged}", verdict.billed.as_str())
    };
    match told {
        Ok(Progress::Pending(pending)) => {
            let progress = pending.progress.map(|progress| format!(" at {progress:.2}")).unwrap_or_default();
            format!("pending {}{progress}", pending.handle)
        }
        Ok(Progress::Done(done)) => {
            let links = done.images.iter().filter(|made| matches!(made.source, ImageSource::Url(_))).count();
            let inline = done.images.len() - links;
            let extra = done.images.iter().filter(|made| made.kind == ImageKind::Preprocessed).count();
            assert!(!done.images.is_empty(), "a success without a picture");
            format!("done: {links} linked, {inline} inline, {extra} preprocessed; {}", bill(&done.verdict))
        }
        Ok(Progress::Failed(error)) => {
            format!("failed as {:?}: {}; {}", error.kind, error.detail, bill(&error.verdict))
        }
        Err(error) => format!("refused as {:?}: {}", error.kind, bill(&error.verdict)),
    }
}

/// Every fixture of a folder is expected of, and every expectation has its fixture.
pub fn covers(folder: &str, expected: &BTreeSet<&str>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(
        files.difference(&expected).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "fixtures nobody expects anything of"
    );
    assert_eq!(
        expected.difference(&files).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "expectations without a fixture"
    );
}

/// Whether two documents mean the same: numbers by value, whatever their spelling.
pub fn same_meaning(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_meaning(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(name, value)| right.get(name).is_some_and(|other| same_meaning(value, other)))
        }
        (left, right) => left == right,
    }
}
