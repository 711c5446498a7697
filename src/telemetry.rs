//! Logs: text for people, JSON for machines, to standard error.

use std::io::IsTerminal;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What is logged, to be changed while the process runs.
#[derive(Clone)]
pub struct Level {
    set: Arc<dyn Fn(EnvFilter) + Send + Sync>,
}

impl Level {
    /// What is wrong with a level, if anything.
    pub fn check(&self, level: &str) -> Result<(), String> {
        filter(level).map(drop)
    }

    /// Logs what `level` says from now on; a level with something wrong changes nothing.
    pub fn set(&self, level: &str) {
        if let Ok(filter) = filter(level) {
            (self.set)(filter);
        }
    }
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|e| format!("log.level: {e}"))
}

/// Starts logging as configured. Answers with what is wrong with the level, if anything.
pub fn start(log: &Log) -> Result<Level, String> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(&log.level)?).with_writer(std::io::stderr);
    // A second start in one process keeps the first subscriber; that is what tests want.
    let set: Arc<dyn Fn(EnvFilter) + Send + Sync> = match log.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Arc::new(move |filter| drop(handle.reload(filter)))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Arc::new(move |filter| drop(handle.reload(filter)))
        }
    };
    Ok(Level { set })
}
