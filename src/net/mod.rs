//! Floor 1: the only makers of outgoing connections. [`Paid`] sends what costs money, once; [`upstream`] asks providers
//! what is free to ask; [`Guarded`] fetches addresses that somebody else chose. No other room builds a client.

pub mod guarded;
pub mod paid;
pub mod policy;
pub mod result_link;
mod tls;

use std::sync::Arc;
use std::time::Duration;

pub use guarded::Guarded;
pub use paid::Paid;
pub use policy::{Lookup, Policy, Reach, SystemLookup};

/// How long a connection may take to come about: name, TCP and TLS together.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Some front doors (Cloudflare's among them) refuse requests without a name of their own.
pub const USER_AGENT: &str = concat!("easel/", env!("CARGO_PKG_VERSION"));

/// The clients cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS: {0}")]
pub struct NetError(pub(crate) String);

/// The clients.
#[derive(Clone)]
pub struct Net {
    /// For what costs money.
    pub paid: Paid,
    /// For what is free to ask of a provider.
    pub upstream: reqwest::Client,
    /// For addresses somebody else chose.
    pub guarded: Guarded,
    /// For the object store that keeps the pictures, where there is one.
    pub storage: reqwest::Client,
    /// For the collector of traces, where there is one.
    pub collector: reqwest::Client,
}

impl Net {
    /// Makes the clients. `extra_roots` are certificates trusted beside the system's.
    pub fn open(
        policy: Policy,
        lookup: Arc<dyn Lookup>,
        extra_roots: Vec<Vec<u8>>,
    ) -> Result<Self, NetError> {
        let tls = tls::config(extra_roots)?;
        Ok(Self {
            paid: Paid::new(tls.clone()),
            upstream: upstream(tls.clone())?,
            storage: storage(tls.clone())?,
            collector: collector(tls.clone())?,
            guarded: Guarded::new(policy, lookup, tls)?,
        })
    }
}

/// A pooled HTTP/1.1 client for polls and other free calls to configured addresses. It follows no redirect, keeps no
/// cookie and takes no proxy from the environment.
fn upstream(tls: rustls::ClientConfig) -> Result<reqwest::Client, NetError> {
    plain(tls).timeout(Duration::from_secs(30)).build().map_err(|e| NetError(e.to_string()))
}

/// A pooled client for the object store. A picture may take its time, a silence may not.
fn storage(tls: rustls::ClientConfig) -> Result<reqwest::Client, NetError> {
    plain(tls).read_timeout(Duration::from_secs(30)).build().map_err(|e| NetError(e.to_string()))
}

/// A pooled client for the collector of traces: what it does not take at once it is not told.
fn collector(tls: rustls::ClientConfig) -> Result<reqwest::Client, NetError> {
    plain(tls).timeout(Duration::from_secs(5)).build().map_err(|e| NetError(e.to_string()))
}

#[expect(clippy::disallowed_methods, reason = "net/ is the maker of clients")]
fn plain(tls: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
}
