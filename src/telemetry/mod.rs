//! Logs: text for people, JSON for machines, to standard error; their level can be changed while the gateway runs.
//! `meters.rs` holds the figures, `otlp.rs` sends traces.

pub mod meters;
pub mod otlp;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// The one subscriber's filter: logging is one for the process, as standard error is.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// What is logged, to be changed while the process runs.
#[derive(Debug, Clone, Copy)]
pub struct Level(());

impl Level {
    /// What is wrong with a level, if anything.
    pub fn check(self, level: &str) -> Result<(), String> {
        filter(level).map(drop)
    }

    /// Logs what `level` says from now on: `error` to `trace`, or a filter such as `easel::store=trace,info`. One with
    /// something wrong changes nothing, and the answer says what it is.
    pub fn set(self, level: &str) -> Result<(), String> {
        let filter = filter(level)?;
        let handle = FILTER.get().ok_or("logging was not started by this program")?;
        handle.reload(filter).map_err(|e| e.to_string())
    }
}

/// The process's log level.
pub const LEVEL: Level = Level(());

/// Starts logging as configured. Answers with what is wrong with the level, if anything.
pub fn start(log: &Log) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(filter(&log.level).map_err(|e| format!("log.level: {e}"))?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in one process keeps the first subscriber; that is what tests want.
    let started = match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    if level.trim().is_empty() {
        return Err("must name a level or a filter".to_owned());
    }
    EnvFilter::try_new(level).map_err(|e| e.to_string())
}
