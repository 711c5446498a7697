//! The composition root: configuration → store, pictures, providers, engine, HTTP. The only place that knows who is who.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use axum::Router;
use http::HeaderName;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::api::metrics::Scrape;
use crate::api::{Api, ApiState, Feeds, Guard, Keys, Shed};
use crate::blobs::space::{Floor, FreeSpace, Space};
use crate::blobs::{Blobs, Place};
use crate::config::{AuthMode, Config, Problems, Provider as ProviderConfig, Webhooks};
use crate::domain::catalog::Price;
use crate::domain::clock::Clock;
use crate::domain::delivery::Schedule;
use crate::domain::key::ManagedKey;
use crate::domain::link::Links;
use crate::domain::secret::token;
use crate::engine::{Alias, Catalog, Engine, Entry, Lane, Offered, Parts, Settings, WebhookSettings};
use crate::net::{Lookup, Net, Policy};
use crate::providers::{Account, KINDS, KindEntry, Options, Rows};
use crate::reload::Reloader;
use crate::server::Limits;
use crate::spool::Spool;
use crate::store::{Exclusive, Store};
use crate::telemetry::otlp::{self, Sending};
use crate::telemetry::{LEVEL, meters};

/// A gateway, put together and not yet moving.
pub struct App {
    /// Its HTTP interface.
    pub router: Router,
    /// Its figures, where they have an address of their own.
    pub figures: Option<Router>,
    /// What connections to it may take.
    pub limits: Limits,
    /// Its engine.
    pub engine: Engine,
    /// Its database.
    pub store: Store,
    /// Reads the configuration again.
    pub reloader: Reloader,
    keys: Keys,
    spans: Sending,
    closing: CancellationToken,
    drain: Duration,
}

/// What differs between a real gateway and one under test.
pub struct Surroundings {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names.
    pub lookup: Arc<dyn Lookup>,
    /// Free space on disks.
    pub space: Arc<dyn FreeSpace>,
    /// Whether the store may be migrated.
    pub migrate: bool,
}

impl App {
    /// Puts a gateway together that will be reached at `address`.
    pub async fn open(config: &Config, address: SocketAddr, around: Surroundings) -> anyhow::Result<Self> {
        Self::open_beside(config, address, around, Exclusive::Yes).await
    }

    /// The same for a command that may run beside a gateway on the same database.
    pub(crate) async fn open_beside(
        config: &Config,
        address: SocketAddr,
        around: Surroundings,
        exclusive: Exclusive,
    ) -> anyhow::Result<Self> {
        meters::start();
        let clock = around.clock;
        let alone = exclusive == Exclusive::Yes;
        let store = Store::open(&config.store.url, exclusive, around.migrate, Arc::clone(&clock)).await?;
        let shared = !alone || !config.store.url.starts_with("sqlite:");
        if shared {
            store.bound_moments().await?;
        } else {
            store.wake_all().await?;
        }
        let policy =
            Policy { allow_private: config.net.allow_private.clone(), allow_http: config.net.allow_http };
        let mut net = Net::open(policy, around.lookup, extra_roots(config)?)?;
        net.guarded = net.guarded.with_stall(seconds(config.blobs.stall_s));
        let (traces, spans) = otlp::open(&config.traces, &net)?;
        let blobs = Blobs::open(place(&config.blobs, &net)).await?;
        match blobs.sweep(clock.now(), shared).await {
            Ok(0) => {}
            Ok(swept) => {
                tracing::info!(swept, "half-written pictures of a process that was killed are cleared away");
            }
            // Litter keeps nobody from serving; the next start tries again.
            Err(error) => tracing::warn!(%error, "half-written pictures could not be cleared away"),
        }
        let spool = open_spool(config, alone)?;
        let offered = open_providers(config, &net, &spool)?;
        let webhook_key = store.setting("webhook_key", token()).await?;
        let signing = store.setting("link_key", token()).await?;
        let links =
            Links::new(&base_url(config, address), signing.into_bytes(), seconds(config.blobs.link_s));
        let store = store.telling(links.clone()).await?;
        let settings = Settings {
            lease: seconds(config.engine.lease_s),
            hold_submissions: config.engine.hold_submissions,
            deadline: seconds(config.engine.deadline_s),
            concurrency: config.engine.concurrency,
            downloads: config.blobs.downloads,
            open_per_tenant: config.engine.open_per_tenant,
            open_in_all: config.engine.open_in_all,
            keeping: config.retention.keeping(),
            audit_keep: seconds(config.audit.keep_days.saturating_mul(86_400)),
            shared,
            webhooks: webhooks(&config.webhooks, webhook_key),
        };
        let keys = open_keys(config, &store, &clock).await?;
        let reloader = Reloader::new(
            config,
            net.clone(),
            spool.clone(),
            store.clone(),
            keys.clone(),
            Arc::clone(&clock),
        );
        let floor = Floor { mib: config.blobs.min_free_mib, percent: config.blobs.min_free_percent };
        let parts = Parts {
            store: store.clone(),
            blobs: blobs.clone(),
            space: Space::watch(config.disks(), floor, around.space),
            spool,
            net,
            clock: Arc::clone(&clock),
            links: links.clone(),
            traces: traces.clone(),
            offered: ArcSwap::from_pointee(offered),
            settings,
        };
        let engine = Engine::new(parts);
        reloader.moves(engine.clone());
        let closing = CancellationToken::new();
        let most = config.server.streams_per_tenant;
        let api = Api::from(ApiState {
            feeds: Feeds::new(store.clone(), links.clone(), Arc::clone(&clock), most),
            heartbeat: seconds(config.server.heartbeat_s),
            engine: engine.clone(),
            store: store.clone(),
            blobs,
            links,
            traces,
            clock,
            keys: keys.clone(),
            key_overlap: seconds(config.auth.rotate_overlap_s),
            reload: reloader.asked(),
            max_json: config.server.max_json_kib * 1024,
            body_within: seconds(config.server.body_s),
            guard: guard(config, address),
            shed: Shed { busy: config.server.busy, handler: seconds(config.server.handler_s) },
            scrape: Scrape::new(meters::render, config.metrics.address().is_some()),
            set_level: |level| LEVEL.set(level),
            closing: closing.clone(),
        });
        let figures = config.metrics.address().map(|_| crate::api::metrics::router(api.clone()));
        let router = crate::api::router(api);
        let limits = limits(config);
        let drain = seconds(config.engine.drain_s);
        Ok(Self { router, figures, limits, engine, store, reloader, keys, spans, closing, drain })
    }

    /// Cancelled when the gateway is to stop.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Finishes what is paid for and closes the store; whether all of it could be finished in time.
    pub async fn close(&self) -> bool {
        self.closing.cancel();
        let finished = self.engine.stop(self.drain).await;
        self.reloader.close().await;
        self.keys.close().await;
        self.store.close().await;
        self.spans.close().await;
        finished
    }
}

/// The longest answer of a provider, in MiB, when its block does not say: ten images of 4096 × 4096 pixels at their largest.
const MAX_ANSWER_MIB: u32 = 512;

/// The spool is beside the pictures where they lie in a folder: on one disk, under one watch. Only a gateway takes over what
/// killed ones left.
pub(crate) fn open_spool(config: &Config, gateway: bool) -> anyhow::Result<Spool> {
    let folder = config.blobs.spool_folder();
    let limit = u64::from(config.blobs.spool_mib) * 1024 * 1024;
    let open = if gateway { Spool::open } else { Spool::open_beside };
    open(&folder, limit).with_context(|| format!("blobs.spool: {}", folder.display()))
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

fn webhooks(config: &Webhooks, key: String) -> WebhookSettings {
    WebhookSettings {
        key: key.into_bytes(),
        timeout: seconds(config.timeout_s),
        per_host: config.per_host,
        concurrency: config.concurrency,
        retries_per_s: config.retries_per_s,
        schedule: Schedule(config.schedule()),
        overlap: seconds(config.overlap_s),
    }
}

/// Whose requests are ours.
fn guard(config: &Config, address: SocketAddr) -> Guard {
    let public = Url::parse(&config.server.public_url).ok();
    let public = public.map(|url| url.authority().to_owned()).filter(|own| !own.is_empty());
    let own = public.into_iter().chain([address.to_string()]).collect::<Vec<_>>();
    Guard { hosts: config.server.hosts.clone().into(), own: own.into() }
}

fn limits(config: &Config) -> Limits {
    Limits {
        header: seconds(config.server.header_s),
        idle: seconds(config.server.idle_s),
        write_stall: seconds(config.server.write_stall_s),
        connections: config.server.connections,
    }
}

fn place(config: &crate::config::Blobs, net: &Net) -> Place {
    let keys = config.access_key_id.get().zip(config.secret_access_key.get());
    Place {
        url: config.url.clone(),
        downloads: config.downloads,
        endpoint: config.endpoint.clone(),
        region: config.region.clone(),
        keys: keys.map(|(id, secret)| (id.to_owned(), secret.to_owned())),
        path_style: config.path_style,
        redirect: config.redirect,
        client: net.storage.clone(),
    }
}

/// How callers reach us: as configured, else at the address listened on when that is one address.
fn base_url(config: &Config, address: SocketAddr) -> String {
    if !config.server.public_url.is_empty() {
        return config.server.public_url.clone();
    }
    if address.ip().is_unspecified() { String::new() } else { format!("http://{address}") }
}

fn extra_roots(config: &Config) -> anyhow::Result<Vec<Vec<u8>>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let path = &config.net.extra_ca_file;
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.with_context(|| format!("net.extra_ca_file: {}", path.display()))?;
    Ok(certificates.into_iter().map(|certificate| certificate.to_vec()).collect())
}

pub(crate) fn open_providers(config: &Config, net: &Net, spool: &Spool) -> anyhow::Result<Offered> {
    let mut catalog = Catalog {
        default_models: config.routing.default_models.clone(),
        providers: config.providers.keys().cloned().collect(),
        reachable: !config.server.public_url.is_empty(),
        ..Catalog::default()
    };
    let mut lanes = BTreeMap::new();
    for (id, settings) in &config.providers {
        let kind = KINDS.iter().find(|kind| kind.name == settings.kind).context("unknown kind")?;
        let account = account(id, settings, kind, net, spool).with_context(|| format!("providers.{id}"))?;
        let options = Options { dialect: settings.dialect.clone() };
        let provider = (kind.open)(account, &options).with_context(|| format!("providers.{id}"))?;
        if settings.api_key.get().is_none() {
            tracing::info!(provider.id = id, "provider is off: no api_key ({})", settings.api_key.origin());
            catalog.dormant.extend(provider.routes().iter().map(|route| route.model.clone()));
            continue;
        }
        for route in provider.routes() {
            let mut route = route.clone();
            if let Some(price) = settings.prices.get(&route.provider_model) {
                let no_image = route.price.as_ref().and_then(|price| price.no_image);
                route.price =
                    Some(Price { per_image: Some(*price), per_call: None, grades: Vec::new(), no_image });
            }
            catalog.entries.push(Entry { provider: id.clone(), route });
        }
        lanes.insert(id.clone(), Lane { provider, in_flight: settings.in_flight.unwrap_or(kind.in_flight) });
    }
    if !catalog.reachable && lanes.values().any(|lane: &Lane| !lane.provider.pace().reconcile.is_zero()) {
        tracing::warn!(
            "server.public_url is not set: providers cannot ring back, so a paid call whose answer is lost cannot be found again"
        );
    }
    for (name, fields) in &config.models {
        let mut defaults = fields.clone();
        let model =
            defaults.remove("model").and_then(|model| model.as_str().map(str::to_owned)).unwrap_or_default();
        catalog.aliases.insert(name.clone(), Alias { model, defaults });
    }
    for key in &config.auth.keys {
        for model in key.models.iter().filter(|model| !catalog.knows(model)) {
            tracing::warn!(
                key.name = key.name,
                model,
                "auth.keys lists a model that no configured provider offers"
            );
        }
    }
    for model in &catalog.default_models {
        if !catalog.knows(model) {
            tracing::warn!(model, "routing.default_models names a model that no configured provider offers");
        }
    }
    Ok(Offered { catalog: Arc::new(catalog), lanes })
}

fn account(
    id: &str,
    settings: &ProviderConfig,
    kind: &KindEntry,
    net: &Net,
    spool: &Spool,
) -> anyhow::Result<Account> {
    let poll = |seconds: Option<f64>| seconds.map(Duration::from_secs_f64);
    Ok(Account {
        id: id.to_owned(),
        base: Url::parse(settings.base_url.as_deref().unwrap_or(kind.base_url))?,
        key: SecretString::from(settings.api_key.get().unwrap_or_default()),
        key_header: settings.api_key_header.as_deref().map(HeaderName::try_from).transpose()?,
        timeout: seconds(settings.timeout_s.unwrap_or(130)),
        poll_after: poll(settings.poll_after_s),
        poll_max: poll(settings.poll_max_s),
        reconcile: settings.reconcile_s.map(seconds),
        net: net.clone(),
        rows: Rows::read(kind.errors, kind.name)?,
        strange: Arc::default(),
        spool: spool.clone(),
        max_answer: u64::from(settings.max_answer_mib.unwrap_or(MAX_ANSWER_MIB)) * 1024 * 1024,
        allow_http_results: settings.allow_http_results,
    })
}

/// The secret that keys are kept under.
pub(crate) async fn pepper(config: &Config, store: &Store) -> anyhow::Result<String> {
    Ok(match config.auth.pepper.get() {
        Some(pepper) => pepper.to_owned(),
        None => store.setting("pepper", token()).await?,
    })
}

async fn open_keys(config: &Config, store: &Store, clock: &Arc<dyn Clock>) -> anyhow::Result<Keys> {
    let managed = store.keys().await?;
    let taken = names_taken(config, &managed);
    if !taken.is_empty() {
        return Err(Problems(taken).into());
    }
    let pepper = pepper(config, store).await?;
    let keys = Keys::open(pepper.as_bytes(), store.clone(), Arc::clone(clock));
    configure(&keys, config);
    if config.auth.mode == AuthMode::None {
        tracing::warn!("auth.mode is \"none\": nobody is asked for a key");
    } else if config.auth.keys.is_empty() && managed.iter().all(|key| key.revoked_at.is_some()) {
        tracing::warn!(
            "there is no key yet: every request will be refused; make one with `easel keys create NAME --admin`"
        );
    }
    Ok(keys)
}

/// Lets the keys of the configuration open.
pub(crate) fn configure(keys: &Keys, config: &Config) {
    if config.auth.mode == AuthMode::Keys {
        let text = |secret: Option<&str>| secret.unwrap_or_default().to_owned();
        keys.configure(config.auth.keys.iter().map(|key| (text(key.key.get()), key.key())), config.auth.rpm);
    }
}

/// Keys of the configuration whose name is a managed key's, revoked or not: tasks and the ledger could not tell them apart.
pub(crate) fn names_taken(config: &Config, managed: &[ManagedKey]) -> Vec<String> {
    let names: HashSet<&str> = managed.iter().map(|key| key.key.name.as_str()).collect();
    let both = config.auth.keys.iter().filter(|key| names.contains(key.name.as_str()));
    both.map(|key| format!("auth.keys {:?}: a managed key has this name", key.name)).collect()
}
