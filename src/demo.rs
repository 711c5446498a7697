//! The gateway on simulated providers, for a first look. It runs on a configuration file like any other, written into its
//! data folder for everybody to read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::config::{Config, Problems};
use crate::domain::clock::SystemClock;
use crate::simulator::{Options, Simulator};

/// A running set of simulated providers, and the configuration that reaches them.
pub struct Demo {
    /// What the gateway is to run on.
    pub config: Config,
    simulator: Simulator,
}

impl Demo {
    /// Starts the simulated providers and writes the configuration for a gateway at `address`.
    pub async fn start(address: SocketAddr, folder: &Path) -> anyhow::Result<Self> {
        let made = std::fs::create_dir_all(folder);
        made.map_err(|e| Problems(vec![format!("--data-dir {}: {e}", folder.display())]))?;
        let options = Options {
            clock: Arc::new(SystemClock::start()),
            ledger: Some(folder.join("provider-ledger.jsonl")),
            time_scale: 1.0,
            seed: 1,
            public_url: None,
        };
        let simulator = Simulator::start(TcpListener::bind("127.0.0.1:0").await?, options).await?;
        let file = folder.join("easel.toml");
        let written = std::fs::write(&file, configuration(address, &simulator.url(), folder));
        written.map_err(|e| Problems(vec![format!("{}: {e}", file.display())]))?;
        let config = Config::load(Some(&file), &BTreeMap::new())?;
        Ok(Self { config, simulator })
    }

    /// What a newcomer is told.
    pub fn greeting(address: SocketAddr, folder: &Path) -> String {
        format!(
            "\nEasel is running on simulated providers: nothing is paid, nothing leaves this machine.\n\n\
             \x20 Swagger UI   http://{address}/docs\n\
             \x20 models       http://{address}/models\n\
             \x20 data         {}\n\n\
             Ask for a picture:\n\n\
             \x20 curl -s -H 'Prefer: wait=30' -H 'content-type: application/json' \\\n\
             \x20   -d '{{\"prompt\":\"a little cat\",\"model\":\"flux-schnell\"}}' http://{address}/generate\n\n\
             Stop with Ctrl-C.\n",
            folder.display()
        )
    }

    /// Stops the simulated providers.
    pub async fn stop(self) {
        self.simulator.stop().await;
    }
}

fn configuration(address: SocketAddr, upstream: &str, folder: &Path) -> String {
    let provider = |id: &str| {
        format!(
            "[providers.{id}]\nkind = \"{id}\"\nbase_url = \"{upstream}\"\napi_key = \"demo-key\"\nallow_http_results = true\npoll_after_s = 1\n\n"
        )
    };
    let folder = folder.display();
    format!(
        "# Written by `easel demo`.\n\n\
         [server]\nlisten = \"{address}\"\npublic_url = \"http://{address}\"\n\n\
         [auth]\nmode = \"none\"\n\n\
         [store]\nurl = \"sqlite://{folder}/easel.db\"\n\n\
         [blobs]\nurl = \"file://{folder}/pictures\"\n\n\
         # The simulated providers live on this machine.\n\
         [net]\nallow_private = [\"127.0.0.1/32\"]\nallow_http = true\n\n\
         [log]\nlevel = \"easel=info,warn\"\n\n{}{}{}",
        provider("piapi_flux"),
        provider("gpt_4o_image"),
        provider("imagepipeline"),
    )
}
