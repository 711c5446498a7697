//! Reading the configuration again while the gateway runs. What can change does so as a whole: keys, the catalogue with its
//! prices and aliases, the accounts with their provider keys, the log's level; the rest is named and waits for a restart.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::api::{Keys, Reload, Reloaded};
use crate::app;
use crate::config::Config;
use crate::domain::audit::{Actor, Entry, Outcome};
use crate::domain::clock::Clock;
use crate::engine::Engine;
use crate::net::Net;
use crate::spool::Spool;
use crate::store::Store;
use crate::telemetry::LEVEL;

/// Reads the configuration again, one reading at a time.
#[derive(Clone)]
pub struct Reloader {
    inner: Arc<Inner>,
}

struct Inner {
    /// What holds at present.
    config: Mutex<Config>,
    net: Net,
    spool: Spool,
    store: Store,
    keys: Keys,
    clock: Arc<dyn Clock>,
    engine: OnceLock<Engine>,
    running: TaskTracker,
}

impl Reloader {
    pub(crate) fn new(
        config: &Config,
        net: Net,
        spool: Spool,
        store: Store,
        keys: Keys,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                config: Mutex::new(config.clone()),
                net,
                spool,
                store,
                keys,
                clock,
                engine: OnceLock::new(),
                running: TaskTracker::new(),
            }),
        }
    }

    /// The engine whose catalogue and accounts are exchanged.
    pub(crate) fn moves(&self, engine: Engine) {
        let _ = self.inner.engine.set(engine);
    }

    /// For the API, which does not know whom it asks. What has begun is finished and written down, though the caller goes
    /// away.
    pub(crate) fn asked(&self) -> Reload {
        let me = self.clone();
        Arc::new(move |who| -> BoxFuture<'static, _> {
            let one = me.clone();
            let reading = me.inner.running.spawn(async move { one.reload(who).await });
            Box::pin(async move {
                reading.await.unwrap_or_else(|broken| Err(vec![format!("the reading broke off: {broken}")]))
            })
        })
    }

    /// Finishes the reading that is under way.
    pub(crate) async fn close(&self) {
        self.inner.running.close();
        self.inner.running.wait().await;
    }

    /// Reads the configuration again, and writes into the audit what came of it.
    pub async fn reload(&self, who: Actor) -> Result<Reloaded, Vec<String>> {
        let came = self.inner.take_over().await;
        let entry =
            |outcome| Entry::new(self.inner.clock.as_ref(), who, "config.reload", "configuration", outcome);
        let entry = match &came {
            Ok(reloaded) => {
                tracing::info!(applied = ?reloaded.applied, needs_restart = ?reloaded.needs_restart, "the configuration was read again");
                entry(Outcome::Done)
                    .with("applied", reloaded.applied.clone())
                    .with("needs_restart", reloaded.needs_restart.clone())
            }
            Err(problems) => {
                tracing::error!(
                    ?problems,
                    "the configuration was read again and has problems; nothing has changed"
                );
                entry(Outcome::Failed).with("problems", problems.len())
            }
        };
        if let Err(error) = self.inner.store.audit(entry).await {
            tracing::error!(%error, "a reload could not be written into the audit");
        }
        came
    }
}

impl Inner {
    async fn take_over(&self) -> Result<Reloaded, Vec<String>> {
        let mut config = self.config.lock().await;
        let fresh = config.reread().map_err(|problems| problems.0)?;
        let (next, applied, needs_restart) = config.taking_over(&fresh);
        let managed = self.store.keys().await.map_err(|error| vec![error.to_string()])?;
        let mut problems = app::names_taken(&next, &managed);
        let offered = app::open_providers(&next, &self.net, &self.spool)
            .map_err(|error| problems.push(format!("{error:#}")));
        if let Err(problem) = LEVEL.check(&next.log.level) {
            problems.push(format!("log.level: {problem}"));
        }
        let Ok(offered) = offered else { return Err(problems) };
        if !problems.is_empty() {
            return Err(problems);
        }
        // Nothing below can fail.
        app::configure(&self.keys, &next);
        if let Some(engine) = self.engine.get() {
            engine.exchange(offered);
        }
        // One that was set by hand holds until the configuration says another. It was checked above.
        if next.log.level != config.log.level {
            let _ = LEVEL.set(&next.log.level);
        }
        *config = next;
        Ok(Reloaded { applied, needs_restart })
    }
}
