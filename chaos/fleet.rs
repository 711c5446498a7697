//! The world a scenario runs in: a folder of its own, the simulator as the upstream of every provider, a database, and the
//! gateway, which is started, killed and started again.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::balancer::Balancer;
use crate::process::{Process, free_port};

/// Every kind of provider; each is configured under its own name.
pub const PROVIDERS: [&str; 4] = ["piapi_flux", "gpt_4o_image", "gpt_image", "imagepipeline"];

/// The caller's key whose tenant owns the tasks, and that of another tenant. Canaries, like the next three: none of them
/// may turn up in a log, a row, a body or quarantine.
pub const OWNER_KEY: &str = "easel_owner_canary5f0c2ab1d4e79836";
pub const OTHER_KEY: &str = "easel_other_canary81b7d9e2c4a60f35";
/// The operator's.
pub const ADMIN_KEY: &str = "easel_admin_canary3e9a60b7f158d2c4";
const UPSTREAM_KEY: &str = "upstream-canary-c1d2e3f4a5b69788";
const PEPPER: &str = "pepper-canary-0f1e2d3c4b5a6978";
/// What must occur nowhere.
pub const CANARIES: [&str; 5] = [OWNER_KEY, OTHER_KEY, ADMIN_KEY, UPSTREAM_KEY, PEPPER];

/// How long a claimed task belongs to its gateway without a sign of life.
pub const LEASE: Duration = Duration::from_secs(5);

/// How a world is laid out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program under test.
    pub easel: PathBuf,
    /// A database of one's own on this Postgres server, instead of SQLite.
    pub postgres: Option<String>,
    /// How many gateways share the database.
    pub replicas: usize,
    /// The program that gateways run until they are upgraded, when it is not the one under test.
    pub older: Option<PathBuf>,
    /// Multiplies the upstreams' times.
    pub time_scale: f64,
    /// Whether callbacks from providers can arrive.
    pub callbacks: bool,
    /// Where the gateway finds its providers, when not at the simulator itself.
    pub upstream: Option<String>,
    /// How long a paid call may take to begin its answer, in seconds.
    pub timeout_s: u32,
    /// Where pictures are kept, when not in a folder of the scenario's.
    pub shelf: Option<Shelf>,
    /// More configuration.
    pub more: String,
}

/// A place for pictures.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// The configuration that names it.
    pub section: String,
    /// Where its objects lie.
    pub folder: PathBuf,
}

impl Plan {
    /// One gateway on SQLite, straight at the simulator, with quick upstreams.
    pub fn new(easel: &Path) -> Self {
        Self {
            easel: easel.to_owned(),
            postgres: None,
            replicas: 1,
            older: None,
            time_scale: 0.02,
            callbacks: false,
            upstream: None,
            timeout_s: 5,
            shelf: None,
            more: String::new(),
        }
    }
}

/// A running world.
pub struct Fleet {
    plan: Plan,
    folder: tempfile::TempDir,
    _simulator: Process,
    simulator_url: String,
    store: String,
    ports: Vec<u16>,
    gateways: Vec<Option<Process>>,
    programs: Vec<PathBuf>,
    balancer: Balancer,
}

impl Fleet {
    /// Lays the world out and starts the simulator; no gateway runs yet.
    pub async fn open(plan: Plan) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("easel-chaos.").tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(&plan.easel);
        command.env_clear().current_dir(folder.path()).args(["simulate", "--listen"]);
        command.arg(format!("127.0.0.1:{port}")).arg("--ledger").arg(folder.path().join("ledger.jsonl"));
        command.args(["--time-scale", &plan.time_scale.to_string()]);
        let log = folder.path().join("simulator.log");
        let mut simulator = Process::start("the simulator", command, "Simulated providers at", &log)?;
        simulator.serving().await?;
        let store = match &plan.postgres {
            Some(url) => crate::postgres::fresh(url).await?,
            None => format!("sqlite://{}/easel.db", folder.path().display()),
        };
        let ports = (0..plan.replicas).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let gateways = ports.iter().map(|_| None).collect();
        let programs = vec![plan.older.clone().unwrap_or_else(|| plan.easel.clone()); plan.replicas];
        let simulator_url = format!("http://127.0.0.1:{port}");
        let balancer = Balancer::start(ports.clone()).await?;
        let fleet = Self {
            plan,
            folder,
            _simulator: simulator,
            simulator_url,
            store,
            ports,
            gateways,
            programs,
            balancer,
        };
        fleet.configure()?;
        Ok(fleet)
    }

    fn configure(&self) -> Result<()> {
        let upstream = self.plan.upstream.as_deref().unwrap_or(&self.simulator_url);
        let own = || format!("[blobs]\nurl = \"file://{}\"\n", self.blobs().display());
        let section = self.plan.shelf.as_ref().map_or_else(own, |shelf| shelf.section.clone());
        let timeout_s = self.plan.timeout_s;
        for (at, port) in self.ports.iter().enumerate() {
            let public = if self.plan.callbacks { self.balancer.url() } else { "" };
            let mut text = format!(
                "[server]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"{public}\"\n\
                 [auth]\npepper = \"{PEPPER}\"\n\
                 keys = [{{ name = \"owner\", tenant = \"owner\", key = \"{OWNER_KEY}\" }},\n\
                 {{ name = \"other\", tenant = \"other\", key = \"{OTHER_KEY}\" }},\n\
                 {{ name = \"operator\", tenant = \"owner\", key = \"{ADMIN_KEY}\", role = \"admin\" }}]\n\
                 [store]\nurl = \"{}\"\n{section}\
                 [net]\nallow_private = [\"127.0.0.1/32\"]\nallow_http = true\n\
                 [engine]\nlease_s = {}\n[webhooks]\nschedule_s = [1, 1, 1, 2, 2, 5, 5, 10]\n[log]\nlevel = \"info\"\n",
                self.store,
                LEASE.as_secs()
            );
            for kind in PROVIDERS {
                let _ = write!(
                    text,
                    "[providers.{kind}]\nkind = \"{kind}\"\nbase_url = \"{upstream}\"\napi_key = \"{UPSTREAM_KEY}\"\nallow_http_results = true\n\
                     in_flight = 50\ntimeout_s = {timeout_s}\npoll_after_s = 0.1\npoll_max_s = 0.5\nreconcile_s = 5\n"
                );
            }
            std::fs::write(self.config(at), text + &self.plan.more)?;
        }
        Ok(())
    }

    /// Points the gateways at another upstream from their next start on.
    pub fn reroute(&mut self, upstream: &str) -> Result<()> {
        self.plan.upstream = Some(upstream.to_owned());
        self.configure()
    }

    fn config(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("easel-{at}.toml"))
    }

    /// Starts a gateway with these variables in its environment, and waits until it serves.
    pub async fn start(&mut self, at: usize, environment: &[(&str, &str)]) -> Result<()> {
        let mut tries = 0;
        loop {
            let mut command = Command::new(&self.programs[at]);
            command.env_clear().current_dir(self.folder.path());
            command.envs(environment.iter().copied()).args(["serve", "--config"]).arg(self.config(at));
            let mut gateway = Process::start("the gateway", command, "easel is serving", &self.log(at))?;
            match gateway.serving().await {
                Ok(()) => {
                    self.gateways[at] = Some(gateway);
                    return Ok(());
                }
                // The port may have served for somebody's outgoing connection while nobody listened on it.
                Err(error) if tries < 3 => {
                    tries += 1;
                    eprintln!("chaos: {error:#}; starting again");
                }
                Err(error) => return Err(error.context(self.tail(at))),
            }
        }
    }

    /// The gateway's process.
    pub fn gateway(&mut self, at: usize) -> Result<&mut Process> {
        self.gateways[at].as_mut().context("the gateway is not running")
    }

    /// Waits until a gateway that may be dazed answers.
    pub async fn ready(&self, at: usize) -> Result<()> {
        let address = format!("127.0.0.1:{}", self.ports[at]).parse()?;
        for _ in 0..30 {
            if easel::server::probe(address).await.is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("gateway {at} does not answer: {}", self.tail(at))
    }

    /// SIGKILL.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        self.gateway(at)?.kill()?;
        self.gateways[at] = None;
        Ok(())
    }

    /// SIGTERM, and waits until it has ended by itself; how long that took. It runs the program under test from its next
    /// start on.
    pub async fn retire(&mut self, at: usize, patience: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let gateway = self.gateway(at)?;
        gateway.ask_to_stop()?;
        let status = gateway.ended(patience).await?.context("the gateway does not stop")?;
        anyhow::ensure!(status.success(), "the gateway stopped with {status}: {}", self.tail(at));
        self.gateways[at] = None;
        self.programs[at].clone_from(&self.plan.easel);
        Ok(begun.elapsed())
    }

    /// How many lines of all gateways' logs hold this text.
    pub fn said(&self, text: &str) -> usize {
        let logs = (0..self.replicas()).map(|at| std::fs::read_to_string(self.log(at)).unwrap_or_default());
        logs.map(|log| log.lines().filter(|line| line.contains(text)).count()).sum()
    }

    /// Where a gateway listens.
    pub fn url(&self, at: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[at])
    }

    /// Where all of them listen.
    pub fn urls(&self) -> Vec<String> {
        (0..self.ports.len()).map(|at| self.url(at)).collect()
    }

    /// Where the simulator listens.
    pub fn simulator(&self) -> &str {
        &self.simulator_url
    }

    /// The scenario's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder behind for a look.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// The simulator's ledger.
    pub fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger.jsonl")
    }

    /// The callers' journal.
    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("journal.jsonl")
    }

    /// The blob folder.
    pub fn blobs(&self) -> PathBuf {
        let own = || self.folder.path().join("blobs");
        self.plan.shelf.as_ref().map_or_else(own, |shelf| shelf.folder.clone())
    }

    /// The gateways' spool.
    pub fn spool(&self) -> PathBuf {
        match &self.plan.shelf {
            Some(_) => self.folder.path().join("easel-spool"),
            None => self.blobs().join("spool"),
        }
    }

    /// What a gateway has logged.
    pub fn log(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("gateway-{at}.log"))
    }

    /// The database's address.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// How many gateways there are.
    pub fn replicas(&self) -> usize {
        self.ports.len()
    }

    fn tail(&self, at: usize) -> String {
        let text = std::fs::read_to_string(self.log(at)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
