//! The client for addresses somebody else chose. Every hop is vetted, names are resolved once and only vetted
//! addresses are connected to, and what is read is bounded in size, time and idleness.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, DATE, HeaderValue, LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::policy::{Lookup, Policy, Reach, Refused};
use super::result_link::{MAX_RESULT_LINK, ResultLink};
use super::{NetError, plain};

/// Redirects followed by a download.
const MAX_HOPS: usize = 3;
/// From the request to the answer's head.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// A whole download of what a caller names.
const TOTAL: Duration = Duration::from_mins(2);
/// A whole download of a result, which may be large, and is paid for.
const TOTAL_RESULT: Duration = Duration::from_mins(10);
/// The longest pause that a server can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// Below this many bytes a second, over any window of its patience, a download is given up.
const LEAST_RATE: u64 = 10 * 1024;

/// How much of the answer to a letter is read.
const LEAST_BODY: usize = 4 * 1024;
/// How long a receiver may go on talking after its status.
const LISTEN: Duration = Duration::from_millis(500);

/// Why nothing, or not all, was read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address, or one it led to, may not be reached.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The server answered with an error.
    #[error("the server answered {status}")]
    Status {
        /// Its HTTP status.
        status: u16,
        /// With 429 and 503, how long it asks us to stay away: no more than [`MAX_RETRY_AFTER`].
        retry_after: Option<Duration>,
    },
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
    /// The connection failed, was cut, or took too long.
    #[error("{0}")]
    Broken(String),
    /// More came than is taken.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// More redirects than are followed.
    #[error("too many redirects")]
    TooManyRedirects,
}

/// The client for addresses somebody else chose.
#[derive(Clone)]
pub struct Guarded {
    policy: Arc<Policy>,
    lookup: Arc<dyn Lookup>,
    client: reqwest::Client,
    /// For letters: a connection each, because one kept open may be closed under a letter that was already read.
    letters: reqwest::Client,
    /// The window in which a download's pace is judged.
    stall: Duration,
}

/// What a receiver said to a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its HTTP status.
    pub status: u16,
    /// How long it asks us to stay away.
    pub retry_after: Option<Duration>,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Fetched {
    response: reqwest::Response,
    ends: Instant,
    stall: Duration,
}

impl Guarded {
    pub(super) fn new(
        policy: Policy,
        lookup: Arc<dyn Lookup>,
        tls: rustls::ClientConfig,
    ) -> Result<Self, NetError> {
        let policy = Arc::new(policy);
        let resolver = Vetting { policy: Arc::clone(&policy), lookup: Arc::clone(&lookup) };
        let letters = plain(tls.clone())
            .dns_resolver(resolver.clone())
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|e| NetError(e.to_string()))?;
        let client = plain(tls)
            .dns_resolver(resolver)
            .pool_max_idle_per_host(8)
            .pool_idle_timeout(Duration::from_secs(20))
            .build()
            .map_err(|e| NetError(e.to_string()))?;
        Ok(Self { policy, lookup, client, letters, stall: Duration::from_secs(10) })
    }

    /// The same with another window in which a download's pace is judged; it is 10 s.
    #[must_use]
    pub fn with_stall(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }

    /// Whether an address could be fetched at all, before anything is resolved.
    pub fn vet(&self, address: &str) -> Result<Url, Refused> {
        self.policy.vet(address)
    }

    /// Whether everybody can reach an address, or only we.
    pub async fn reach(&self, address: &str) -> Result<Reach, Refused> {
        let url = self.policy.vet(address)?;
        self.policy.reach(self.lookup.as_ref(), &url).await
    }

    /// Posts a letter and hears the answer's head `within` that time. No redirect is followed, and of the body no more than
    /// [`LEAST_BODY`] bytes are read, so that a polite receiver can finish its sentence.
    pub async fn post(
        &self,
        address: &str,
        headers: HeaderMap,
        letter: Bytes,
        within: Duration,
    ) -> Result<Receipt, FetchError> {
        let ends = Instant::now() + within;
        let url = self.policy.vet(address)?;
        let sending = self.letters.post(url).headers(headers).body(letter).send();
        let answer = timeout_at(ends, sending).await;
        let response = answer.map_err(|_| FetchError::Broken("no answer in time".into()))?.map_err(broken)?;
        let receipt =
            Receipt { status: response.status().as_u16(), retry_after: retry_after(response.headers()) };
        let mut body = response.bytes_stream();
        let mut read = 0;
        let listening = async {
            while let Some(Ok(piece)) = body.next().await {
                read += piece.len();
                if read >= LEAST_BODY {
                    break;
                }
            }
        };
        // What it says beyond its status is not asked for; only the time it takes is bounded.
        let _ = timeout_at(ends.min(Instant::now() + LISTEN), listening).await;
        Ok(receipt)
    }

    /// Fetches an address that a caller gave, following at most three vetted redirects.
    pub async fn get(&self, address: &str) -> Result<Fetched, FetchError> {
        let url = self.policy.vet(address)?;
        self.follow(url, None, Rules::Caller, Instant::now() + TOTAL).await
    }

    /// Fetches a result from a link that a provider gave, following at most three vetted redirects. How such
    /// a link is read and what it may hold beyond a caller's address stands at [`ResultLink`]. A link to
    /// plain http is tried over TLS first; only with `allow_http`, and if that fails, as it stands.
    pub async fn get_result(&self, link: &str, allow_http: bool) -> Result<Fetched, FetchError> {
        let link = ResultLink::parse(link)?;
        self.policy.vet_result(&link.url)?;
        let ends = Instant::now() + TOTAL_RESULT;
        let secure = link.over_tls();
        let plain = link.url.scheme() == "http" && allow_http;
        match self.follow(secure, link.authorization.clone(), Rules::Result, ends).await {
            Err(error) if plain && error.may_be_for_want_of_tls() => {
                self.follow(link.url, link.authorization, Rules::Result, ends).await
            }
            fetched => fetched,
        }
    }

    /// Asks for a URL that has been vetted, and for those it redirects to. Only the first is shown
    /// `authorization`.
    async fn follow(
        &self,
        mut url: Url,
        mut authorization: Option<HeaderValue>,
        rules: Rules,
        ends: Instant,
    ) -> Result<Fetched, FetchError> {
        for _ in 0..=MAX_HOPS {
            let mut request =
                self.client.get(url.clone()).header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(authorization) = authorization.take() {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = timeout_at(ends.min(Instant::now() + FIRST_BYTE), request.send()).await;
            let response =
                answer.map_err(|_| FetchError::Broken("no answer in time".into()))?.map_err(broken)?;
            let status = response.status();
            if status.is_success() {
                return Ok(Fetched { response, ends, stall: self.stall });
            }
            let failed = FetchError::status(status, response.headers());
            if !status.is_redirection() {
                return Err(failed);
            }
            let location = response.headers().get(LOCATION);
            if location.is_some_and(|to| to.len() > MAX_RESULT_LINK) {
                return Err(Refused::Redirect("too long").into());
            }
            let next = location.and_then(|to| rules.text(to)).and_then(|to| url.join(to).ok());
            let next = next.ok_or(failed)?;
            url = self.vet_redirect(&url, next, rules)?;
        }
        Err(FetchError::TooManyRedirects)
    }

    /// Vets where a redirect leads: never from TLS out of it.
    fn vet_redirect(&self, from: &Url, to: Url, rules: Rules) -> Result<Url, Refused> {
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(Refused::Redirect("out of TLS"));
        }
        let vetted = match rules {
            Rules::Caller => self.policy.vet(to.as_str()),
            Rules::Result => {
                let to = ResultLink::from(to).url;
                self.policy.vet_result(&to).map(|()| to)
            }
        };
        vetted.map_err(|refused| match refused {
            Refused::Syntax(reason) => Refused::Redirect(reason),
            refused => refused,
        })
    }
}

/// Whose word an address is followed on.
#[derive(Clone, Copy)]
enum Rules {
    Caller,
    Result,
}

impl Rules {
    /// The text of a `Location`. Providers write theirs unescaped, too.
    fn text(self, location: &HeaderValue) -> Option<&str> {
        match self {
            Self::Caller => location.to_str().ok(),
            Self::Result => std::str::from_utf8(location.as_bytes()).ok(),
        }
    }
}

impl FetchError {
    fn status(status: StatusCode, headers: &HeaderMap) -> Self {
        let waits = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let pause = waits.then(|| retry_after(headers)).flatten();
        Self::Status { status: status.as_u16(), retry_after: pause.map(|pause| pause.min(MAX_RETRY_AFTER)) }
    }

    /// Whether the same host may answer otherwise without TLS. It is left alone when it asks for that.
    fn may_be_for_want_of_tls(&self) -> bool {
        matches!(
            self,
            Self::Broken(_)
                | Self::TooManyRedirects
                | Self::Refused(Refused::Redirect(_))
                | Self::Status { retry_after: None, .. }
        )
    }
}

impl Fetched {
    /// The answer's status: a success.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// What the answer says of its body.
    pub fn kept_headers(&self) -> Vec<(String, String)> {
        let kept = ["content-type", "content-encoding", "content-length", "server", "date"];
        let headers = self.response.headers();
        let text = |name: &str| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned()));
        kept.into_iter().filter_map(text).collect()
    }

    /// The body, piece by piece; it ends with an error when it exceeds `most` bytes, falls short of its announced length
    /// or crawls. What is announced is not believed: bytes are counted.
    pub fn body(self, most: u64) -> impl Stream<Item = Result<Bytes, FetchError>> + Send + Unpin {
        let (ends, stall) = (self.ends, self.stall);
        let state = (Box::pin(self.response.bytes_stream()), 0u64, (Instant::now(), 0u64));
        Box::pin(futures_util::stream::try_unfold(
            state,
            move |(mut bytes, read, (since, before))| async move {
                let Ok(next) = timeout_at(ends.min(since + stall), bytes.next()).await else {
                    return Err(FetchError::Broken("the download took too long".into()));
                };
                let Some(piece) = next.transpose().map_err(broken)? else { return Ok(None) };
                let read = read + piece.len() as u64;
                if read > most {
                    return Err(FetchError::TooLarge(most));
                }
                // A window is over when it has seen its share of bytes; one that never does ends the download.
                let window = if read - before >= LEAST_RATE * stall.as_secs().max(1) {
                    (Instant::now(), read)
                } else {
                    (since, before)
                };
                Ok(Some((piece, (bytes, read, window))))
            },
        ))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature map_err asks for")]
fn broken(error: reqwest::Error) -> FetchError {
    let causes =
        std::iter::successors(Some(&error as &(dyn std::error::Error + 'static)), |error| error.source());
    for cause in causes.clone() {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return FetchError::Refused(*refused);
        }
        if cause.is::<NoAddress>() {
            return FetchError::NoAddress;
        }
    }
    // The URL may carry a signature: only the causes below reqwest's own line are told.
    let words: Vec<_> = causes.skip(1).map(ToString::to_string).collect();
    FetchError::Broken(if words.is_empty() { "the connection failed".into() } else { words.join(": ") })
}

#[derive(Debug, thiserror::Error)]
#[error("the name has no address")]
struct NoAddress;

/// The pause a receiver asks for: seconds, or a moment by its own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let sent = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    until.duration_since(sent).ok()
}

#[derive(Clone)]
struct Vetting {
    policy: Arc<Policy>,
    lookup: Arc<dyn Lookup>,
}

impl Resolve for Vetting {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookup) = (Arc::clone(&self.policy), Arc::clone(&self.lookup));
        Box::pin(async move {
            let addresses = policy.resolve(lookup.as_ref(), name.as_str()).await?;
            if addresses.is_empty() {
                return Err(NoAddress.into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
