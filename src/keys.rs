//! `easel keys`: the managed keys, from the machine that holds the configuration. It works on the store itself, so it needs
//! no key and no running gateway; one that runs sees the change within seconds.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};

use crate::app;
use crate::config::Config;
use crate::domain::audit::{Actor, Entry, Outcome};
use crate::domain::clock::{Clock, Millis, SystemClock};
use crate::domain::key::{LONGEST_OVERLAP_S, ManagedKey, Role};
use crate::domain::key_text::KeyText;
use crate::domain::money::Usd;
use crate::domain::new_key::NewKey;
use crate::store::{Exclusive, Store};

/// What is to be done with the keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key and print its text, this once
    Create(Create),
    /// List all keys, those of the configuration too
    List,
    /// Give a key a new secret and print its text, this once
    Rotate {
        /// The key's id or name
        key: String,
        /// For how many seconds the secret before still opens; `auth.rotate_overlap_s` unless said otherwise
        #[arg(long, value_parser = clap::value_parser!(u32).range(..=i64::from(LONGEST_OVERLAP_S)))]
        overlap_s: Option<u32>,
    },
    /// Let a key open nothing any more
    Revoke {
        /// The key's id or name
        key: String,
    },
}

/// A key that is wanted; what is left out does not limit.
#[derive(Debug, Args)]
pub struct Create {
    /// Unique in the gateway: tasks, the ledger and the audit know the key by it
    name: String,
    /// Whose tasks it works on
    #[arg(long, default_value = "default")]
    tenant: String,
    /// May look after the gateway itself, too
    #[arg(long)]
    admin: bool,
    /// The models it may ask for, with commas between
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// Requests a minute
    #[arg(long)]
    rpm: Option<u32>,
    /// Tasks that are not over yet
    #[arg(long)]
    concurrent_tasks: Option<u32>,
    /// Dollars a day, UTC
    #[arg(long)]
    daily_budget_usd: Option<Usd>,
    /// Dollars in all
    #[arg(long)]
    budget_usd: Option<Usd>,
    /// From when it opens nothing, such as 2027-01-01T00:00:00Z
    #[arg(long)]
    expires_at: Option<Millis>,
}

/// Does it, and says what came of it to `out`.
pub async fn run(command: Command, config: &Config, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    // The first key may be made before the first start; beside a gateway that runs nothing is migrated under its hands.
    let migrate = matches!(command, Command::Create(_));
    let store = Store::open(&config.store.url, Exclusive::No, migrate, Arc::clone(&clock)).await?;
    let done = Desk { config, store: &store, clock: clock.as_ref() }.serve(command, out).await;
    store.close().await;
    done
}

struct Desk<'a> {
    config: &'a Config,
    store: &'a Store,
    clock: &'a dyn Clock,
}

impl Desk<'_> {
    async fn serve(&self, command: Command, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
        match command {
            Command::Create(wanted) => {
                let text = self.create(wanted).await?;
                writeln!(out, "{text}")?;
            }
            Command::List => self.list(out).await?,
            Command::Rotate { key, overlap_s } => {
                let text = self.rotate(&key, overlap_s.unwrap_or(self.config.auth.rotate_overlap_s)).await?;
                writeln!(out, "{text}")?;
            }
            Command::Revoke { key } => {
                let id = self.find(&key).await?.id;
                let entry = self.entry("key.revoke", &id.to_string());
                self.store.revoke_key(id, entry).await?.context("the key is revoked already")?;
                writeln!(out, "{id} opens nothing any more; a running gateway knows within 5 seconds.")?;
            }
        }
        Ok(())
    }

    async fn create(&self, wanted: Create) -> anyhow::Result<String> {
        let wanted = NewKey {
            name: wanted.name,
            tenant: wanted.tenant,
            role: if wanted.admin { Role::Admin } else { Role::User },
            models: wanted.models,
            rpm: wanted.rpm,
            concurrent_tasks: wanted.concurrent_tasks,
            daily_budget_usd: wanted.daily_budget_usd,
            budget_usd: wanted.budget_usd,
            expires_at: wanted.expires_at,
        };
        let faults: Vec<_> = wanted
            .faults(self.clock.now())
            .into_iter()
            .map(|fault| format!("{}: {}", fault.pointer.trim_start_matches('/'), fault.detail))
            .collect();
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        let taken = || format!("another key is named {:?}, or was", wanted.name);
        ensure!(!self.config.auth.keys.iter().any(|key| key.name == wanted.name), taken());
        let taken = taken();
        let pepper = app::pepper(self.config, self.store).await?;
        let (key, text) = wanted.mint(self.clock, pepper.as_bytes());
        let entry = key.created(self.clock, operator());
        ensure!(self.store.create_key(key, entry).await?, taken);
        Ok(text.text)
    }

    async fn rotate(&self, key: &str, overlap_s: u32) -> anyhow::Result<String> {
        let id = self.find(key).await?.id;
        let text = KeyText::fresh_for(id);
        let until = self.clock.now() + Duration::from_secs(overlap_s.into());
        let pepper = app::pepper(self.config, self.store).await?;
        let entry = self.entry("key.rotate", &id.to_string()).with("previous_until", until.to_string());
        let rotated = self.store.rotate_key(id, text.hash(pepper.as_bytes()), until, entry).await?;
        rotated.context("the key is revoked")?;
        Ok(text.text)
    }

    async fn list(&self, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
        let now = self.clock.now();
        writeln!(out, "{:30} {:24} {:16} {:6} state", "id", "name", "tenant", "role")?;
        let role = |role: Role| if role == Role::Admin { "admin" } else { "user" };
        for key in &self.config.auth.keys {
            writeln!(
                out,
                "{:30} {:24} {:16} {:6} opens",
                "(configuration)",
                key.name,
                key.tenant,
                role(key.role)
            )?;
        }
        for ManagedKey { id, key, revoked_at, .. } in self.store.keys().await? {
            let state = match (revoked_at, key.limits.expires_at) {
                (Some(at), _) => format!("revoked {at}"),
                (None, Some(at)) if at <= now => format!("expired {at}"),
                (None, Some(at)) => format!("opens until {at}"),
                (None, None) => "opens".to_owned(),
            };
            writeln!(
                out,
                "{:30} {:24} {:16} {:6} {state}",
                id.to_string(),
                key.name,
                key.tenant,
                role(key.role)
            )?;
        }
        Ok(())
    }

    async fn find(&self, which: &str) -> anyhow::Result<ManagedKey> {
        let keys = self.store.keys().await?;
        match keys.into_iter().find(|key| key.key.name == which || key.id.to_string() == which) {
            Some(key) => Ok(key),
            None if self.config.auth.keys.iter().any(|key| key.name == which) => {
                bail!("{which:?} is a key of the configuration; it is changed there")
            }
            None => bail!("no managed key has the id or the name {which:?}"),
        }
    }

    fn entry(&self, act: &str, subject: &str) -> Entry {
        Entry::new(self.clock, operator(), act, subject, Outcome::Done)
    }
}

fn operator() -> Actor {
    Actor::operator("command-line")
}
