//! The world that is measured: a folder of its own, the simulator, and a gateway on SQLite that can be killed and started
//! again.

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
    _simulator: Process,
    simulator_url: String,
    port: u16,
    gateway: Option<Process>,
}

impl World {
    /// Starts the simulator; no gateway runs yet.
    pub async fn open(easel: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("easel-bench.").tempdir()?;
        let at = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(easel);
        command.env_clear().current_dir(folder.path()).args(["simulate", "--listen", &at]);
        let log = folder.path().join("simulator.log");
        let mut simulator = Process::start("the simulator", command, "Simulated providers at", &log)?;
        simulator.serving().await?;
        Ok(Self {
            easel: easel.to_owned(),
            folder,
            _simulator: simulator,
            simulator_url: format!("http://{at}"),
            port: free_port()?,
            gateway: None,
        })
    }

    /// Writes the gateway's configuration: what `server` and `engine` say beside the least it needs.
    pub fn configure(&self, in_flight: usize, server: &str, engine: &str) -> Result<()> {
        let Self { folder, simulator_url, port, .. } = self;
        let folder = folder.path().display();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n{server}\n\
             [auth]\npepper = \"a-pepper-for-the-bench\"\n\
             keys = [{{ name = \"bench\", tenant = \"bench\", key = \"{KEY}\" }}]\n\
             [store]\nurl = \"sqlite://{folder}/easel.db\"\n[blobs]\nurl = \"file://{folder}/blobs\"\n\
             [net]\nallow_private = [\"127.0.0.1/32\"]\nallow_http = true\n\
             [engine]\n{engine}\n[log]\nlevel = \"warn,easel=info\"\n\
             [providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"{simulator_url}\"\napi_key = \"any\"\n\
             in_flight = {in_flight}\n"
        );
        Ok(std::fs::write(self.config(), text)?)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("easel.toml")
    }

    /// Starts the gateway and waits until it serves.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.easel);
        command.env_clear().current_dir(self.folder.path()).args(["serve", "--config"]).arg(self.config());
        let log = self.folder.path().join("gateway.log");
        let mut gateway = Process::start("the gateway", command, "easel is serving", &log)?;
        let serving = gateway.serving().await;
        if serving.is_err() {
            eprintln!("{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        self.gateway = Some(gateway);
        serving
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.gateway.take().map_or(Ok(()), |mut gateway| gateway.kill())
    }

    /// The gateway's resident memory in KiB; 0 when it does not run.
    pub fn resident_kib(&self) -> Result<u64> {
        self.gateway.as_ref().map_or(Ok(0), Process::resident_kib)
    }

    /// The most resident memory the gateway ever had, in KiB; 0 when it does not run.
    pub fn peak_kib(&self) -> Result<u64> {
        let Some(gateway) = &self.gateway else { return Ok(0) };
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// Where the gateway listens, without a scheme.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where the gateway listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where the simulator listens.
    pub fn simulator(&self) -> &str {
        &self.simulator_url
    }
}
