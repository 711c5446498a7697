//! The process: what each command does.

mod cli;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use clap::Parser;
use easel::app::{App, Surroundings};
use easel::blobs::BlobError;
use easel::blobs::space::SystemSpace;
use easel::config::{Config, Problems};
use easel::demo::Demo;
use easel::domain::audit::Actor;
use easel::domain::clock::{Clock, SystemClock};
use easel::net::SystemLookup;
use easel::server::Limits;
use easel::simulator::{self, Simulator};
use easel::store::{self, Exclusive, Moved, Store, StoreError};
use easel::telemetry::meters;
use easel::{api, keys, recover, server, telemetry};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::cli::{Cli, Command, ConfigFile};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for what the operator must put right before a start can succeed (EX_CONFIG).
const BAD_CONFIGURATION: u8 = 78;

impl ConfigFile {
    fn load(&self) -> Result<Config, Problems> {
        let usual = Path::new("easel.toml");
        let file = self.config.as_deref().or_else(|| usual.exists().then_some(usual));
        Config::load(file, &environment())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment enters here, and goes to the configuration alone"
)]
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn main() -> ExitCode {
    small_pages();
    let outcome =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime").and_then(
            |runtime| {
                let outcome = runtime.block_on(run(Cli::parse().command));
                // What is still running was told to stop; it is not waited for twice.
                runtime.shutdown_background();
                outcome
            },
        );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "easel: {error:#}");
            if is_configuration(&error) { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether the operator must put something right before a start can succeed.
fn is_configuration(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Problems>()
            || cause.is::<Unstartable>()
            || matches!(cause.downcast_ref(), Some(BlobError::Open { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(
                    StoreError::Open { .. }
                        | StoreError::InUse(_)
                        | StoreError::NeedsMigration(_)
                        | StoreError::NotMoved(_)
                )
            )
    })
}

/// A start that cannot succeed as configured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unstartable(String);

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { config, no_migrate } => {
            let config = config.load()?;
            telemetry::start(&config.log).map_err(Unstartable)?;
            leave_no_core();
            let listener = bind(config.server.listen).await?;
            serve(&config, listener, !no_migrate, |_| Ok(())).await
        }
        Command::Demo { listen, data_dir } => demo(listen, &data_dir).await,
        Command::Simulate { listen, ledger, time_scale, seed, public_url } => {
            let listener = bind(listen).await?;
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
            let options = simulator::Options { clock, ledger, time_scale, seed, public_url };
            let mut stops = Stops::heard()?;
            let simulator = Simulator::start(listener, options).await?;
            say(&format!("Simulated providers at {}\n", simulator.url()))?;
            stops.next().await;
            simulator.stop().await;
            Ok(())
        }
        Command::Migrate { from: Some(from), to: Some(to), .. } => {
            let moved = store::transfer(&from, &to).await?;
            for Moved { table, rows, sha256 } in &moved {
                say(&format!("{table:20} {rows:>10} rows  sha256 {sha256}\n"))?;
            }
            let rows: u64 = moved.iter().map(|one| one.rows).sum();
            say(&format!("Moved {rows} rows in {} tables; what arrived equals what was sent.\n", moved.len()))
        }
        Command::Migrate { config, .. } => {
            let config = config.load()?;
            let store =
                Store::open(&config.store.url, Exclusive::No, true, Arc::new(SystemClock::start())).await?;
            store.close().await;
            say("The database is up to date.\n")
        }
        Command::Backup { config, file } => backup(&config.load()?, &file).await,
        Command::CheckConfig { config } => {
            let config = config.load()?;
            let on: Vec<_> = config.active_providers().map(|(id, _)| id.as_str()).collect();
            say(&format!("The configuration is good. Providers that are on: {}\n", on.join(", ")))
        }
        Command::Healthcheck { config } => {
            let listen = config.load()?.server.listen;
            server::probe(listen).await.with_context(|| format!("no gateway answers at {listen}"))
        }
        Command::Keys { config, command } => {
            keys::run(command, &config.load()?, &mut std::io::stdout()).await
        }
        Command::Recover { config, what } => {
            recover::run(what, &config.load()?, surroundings(false), &mut std::io::stdout()).await
        }
        Command::Openapi => say(&format!("{}\n", serde_json::to_string_pretty(&api::openapi())?)),
    }
}

/// The machine's own clock, names and disks.
fn surroundings(migrate: bool) -> Surroundings {
    Surroundings {
        clock: Arc::new(SystemClock::start()),
        lookup: Arc::new(SystemLookup),
        space: Arc::new(SystemSpace),
        migrate,
    }
}

/// On hosts where huge pages are the rule a heap of a few MiB would take some twenty. It works without, too.
fn small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// A process full of keys leaves no image of its memory behind, and lets no other process of its user look into it.
fn leave_no_core() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| Unstartable(format!("cannot listen on {address}: {error}")).into())
}

/// Serves until told to stop, then finishes what is paid for. A second signal drops the rest: leases and the store make
/// that safe.
async fn serve(
    config: &Config,
    listener: TcpListener,
    migrate: bool,
    ready: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let app = App::open(config, address, surroundings(migrate)).await?;
    // Before anything is begun: a signal that nobody waits for yet would end the process as kill -9 does.
    let (mut stops, told) = (Stops::heard()?, signal(SignalKind::hangup())?);
    let stop = CancellationToken::new();
    let serving = server::serve_within(listener, app.router.clone(), app.limits, stop.clone());
    let showing = show_figures(config, app.figures.clone(), app.limits, stop.clone()).await?;
    let folding = meters::fold(stop.clone());
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "easel is serving");
    if app.engine.holds_submissions() {
        tracing::warn!("this process submits nothing to providers: engine.hold_submissions is set");
    }
    ready(address)?;
    // Buys from here on: a start that failed after it would drop paid calls half-way, again at every try.
    app.engine.start();
    let stopping = async {
        stops.next().await;
        tracing::info!("stopping: finishing what is paid for; a second signal stops at once");
        app.closing().cancel();
        stop.cancel();
    };
    tokio::join!(stopping, serving, showing, folding, reload(&app, told, &stop));
    tokio::select! {
        finished = app.close() => if finished { tracing::info!("stopped") } else { tracing::warn!("stopped with work under way") },
        () = stops.next() => tracing::warn!("stopped at once; work under way is taken up at the next start"),
    }
    Ok(())
}

/// Serves the figures where they have an address of their own, until told to stop.
async fn show_figures(
    config: &Config,
    figures: Option<Router>,
    limits: Limits,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()>> {
    let own = match config.metrics.address().zip(figures) {
        Some((address, router)) => Some((bind(address).await?, router)),
        None => None,
    };
    Ok(async move {
        if let Some((listener, router)) = own {
            server::serve_within(listener, router, limits, stop).await;
        }
    })
}

async fn backup(config: &Config, file: &Path) -> anyhow::Result<()> {
    let url = &config.store.url;
    if !url.starts_with("sqlite:") {
        return Err(Unstartable(
            "the store is Postgres, whose own tools copy it: pg_dump --format=custom --file=easel.dump \"$DATABASE_URL\"".into(),
        )
        .into());
    }
    if file.exists() {
        return Err(
            Unstartable(format!("{} exists already; a backup overwrites nothing", file.display())).into()
        );
    }
    let store = Store::open(url, Exclusive::No, false, Arc::new(SystemClock::start())).await?;
    let copied = store.copy_to(file).await.with_context(|| format!("cannot write {}", file.display()));
    store.close().await;
    copied?;
    say(&format!(
        "The database is copied to {}. Copy the pictures after it, never before it.\n",
        file.display()
    ))
}

/// Reads the configuration again whenever the process is told so by SIGHUP, until it is to stop.
async fn reload(app: &App, mut told: Signal, stop: &CancellationToken) {
    loop {
        tokio::select! {
            // What came of it is in the log.
            Some(()) = told.recv() => drop(app.reloader.reload(Actor::operator("signal")).await),
            () = stop.cancelled() => return,
        }
    }
}

/// The signals that tell the process to stop.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// Hears them from now on.
    fn heard() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one since they were heard.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn demo(listen: SocketAddr, data_dir: &Path) -> anyhow::Result<()> {
    if !listen.ip().is_loopback() {
        return Err(Unstartable(format!(
            "the demo asks nobody for a key, so it listens on loopback only, not on {listen}"
        ))
        .into());
    }
    let listener = bind(listen).await?;
    let demo = Demo::start(listener.local_addr()?, data_dir).await?;
    telemetry::start(&demo.config.log).map_err(Unstartable)?;
    serve(&demo.config, listener, true, |address| say(&Demo::greeting(address, data_dir))).await?;
    demo.stop().await;
    Ok(())
}
