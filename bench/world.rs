//! The world that is measured: a folder of its own, the simulator, and a gateway on SQLite, or several on a Postgres, that
//! can be killed and started again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{Process, free_port};

/// The caller's key.
pub const KEY: &str = "easel_bench_0123456789abcdef";

/// A running world.
pub struct World {
    easel: PathBuf,
    folder: tempfile::TempDir,
    simulator: Process,
    simulator_url: String,
    store: String,
    ports: Vec<u16>,
    gateways: Vec<Option<Process>>,
}

impl World {
    /// Starts the simulator; no gateway runs yet.
    pub async fn open(easel: &Path) -> Result<Self> {
        Self::with_gateways(easel, None, 1).await
    }

    /// The same for so many gateways on this Postgres database.
    pub async fn with_gateways(easel: &Path, postgres: Option<&str>, count: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("easel-bench.").tempdir()?;
        let at = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(easel);
        command.env_clear().current_dir(folder.path()).args(["simulate", "--listen", &at]);
        let log = folder.path().join("simulator.log");
        let mut simulator = Process::start("the simulator", command, "Simulated providers at", &log)?;
        simulator.serving().await?;
        let store =
            postgres.map_or_else(|| format!("sqlite://{}/easel.db", folder.path().display()), str::to_owned);
        Ok(Self {
            easel: easel.to_owned(),
            folder,
            simulator,
            simulator_url: format!("http://{at}"),
            store,
            ports: (0..count).map(|_| free_port()).collect::<Result<_>>()?,
            gateways: (0..count).map(|_| None).collect(),
        })
    }

    /// Writes the gateway's configuration: what `server` and `engine` say beside the least it needs.
    pub fn configure(&self, in_flight: usize, server: &str, engine: &str) -> Result<()> {
        self.configure_at(0, in_flight, server, engine)
    }

    /// The same for one of several.
    pub fn configure_at(&self, at: usize, in_flight: usize, server: &str, engine: &str) -> Result<()> {
        let Self { folder, simulator_url, store, .. } = self;
        let (folder, port) = (folder.path().display(), self.ports[at]);
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n{server}\n\
             [auth]\npepper = \"a-pepper-for-the-bench\"\n\
             keys = [{{ name = \"bench\", tenant = \"bench\", key = \"{KEY}\" }}]\n\
             [store]\nurl = \"{store}\"\n[blobs]\nurl = \"file://{folder}/blobs\"\n\
             [net]\nallow_private = [\"127.0.0.1/32\"]\nallow_http = true\n\
             [engine]\n{engine}\n[log]\nlevel = \"warn,easel=info\"\n\
             [providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"{simulator_url}\"\napi_key = \"any\"\nallow_http_results = true\n\
             in_flight = {in_flight}\n"
        );
        Ok(std::fs::write(self.config(at), text)?)
    }

    fn config(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("easel-{at}.toml"))
    }

    /// Starts the gateway and waits until it serves.
    pub async fn start(&mut self) -> Result<()> {
        self.start_at(0).await
    }

    /// Starts one of several and waits until it serves.
    pub async fn start_at(&mut self, at: usize) -> Result<()> {
        let mut command = Command::new(&self.easel);
        command.env_clear().current_dir(self.folder.path()).args(["serve", "--config"]).arg(self.config(at));
        let log = self.folder.path().join(format!("gateway-{at}.log"));
        let mut gateway = Process::start("the gateway", command, "easel is serving", &log)?;
        let serving = gateway.serving().await;
        if serving.is_err() {
            eprintln!("{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        self.gateways[at] = Some(gateway);
        serving
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.gateways[0].take().map_or(Ok(()), |mut gateway| gateway.kill())
    }

    /// The gateway's resident memory in KiB; 0 when it does not run.
    pub fn resident_kib(&self) -> Result<u64> {
        self.gateways[0].as_ref().map_or(Ok(0), Process::resident_kib)
    }

    /// The most resident memory the gateway ever had, in KiB; 0 when it does not run.
    pub fn peak_kib(&self) -> Result<u64> {
        let Some(gateway) = &self.gateways[0] else { return Ok(0) };
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// A file of this name in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The gateway's process.
    pub fn process(&self) -> Result<u32> {
        Ok(self.gateways[0].as_ref().context("no gateway runs")?.id())
    }

    /// Where the gateway listens, without a scheme.
    pub fn address(&self) -> String {
        self.address_of(0)
    }

    /// Where one of several listens, without a scheme.
    pub fn address_of(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.ports[at])
    }

    /// Where the gateway listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The simulator's process.
    pub fn provider(&self) -> u32 {
        self.simulator.id()
    }

    /// Where the simulator listens.
    pub fn simulator(&self) -> &str {
        &self.simulator_url
    }
}
