//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use easel::{keys, recover};

/// A gateway in front of paid image-generation providers: at most one paid submission, no lost picture, every change
/// reported.
#[derive(Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the gateway
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Refuse to start on a database that lacks migrations, instead of migrating it
        #[arg(long)]
        no_migrate: bool,
    },
    /// Run the gateway on simulated providers: no account, no key, no network, real PNGs
    Demo {
        /// Where to listen; loopback only
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// Where to keep the database, the pictures and the configuration the demo runs on
        #[arg(long, default_value = "easel-demo")]
        data_dir: PathBuf,
    },
    /// Run the simulated providers alone, for staging and tests
    Simulate {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8090")]
        listen: SocketAddr,
        /// Where to write down every paid request that was received
        #[arg(long)]
        ledger: Option<PathBuf>,
        /// Multiplies every generation time; 0 is at once
        #[arg(long, default_value_t = 1.0)]
        time_scale: f64,
        /// The same seed gives the same pictures, ids and times
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// What links to results start with; by default the address listened on
        #[arg(long)]
        public_url: Option<String>,
    },
    /// Copy a SQLite database that may be in use into a new file, whole and as of one moment
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        /// Where to; must not exist yet
        file: PathBuf,
    },
    /// Bring the database up to date, or move a SQLite one to Postgres
    Migrate {
        #[command(flatten)]
        config: ConfigFile,
        /// Move everything from this SQLite database (sqlite://PATH), which no gateway may be using
        #[arg(long, requires = "to", conflicts_with = "config")]
        from: Option<String>,
        /// … to this Postgres database (postgres://…), which must be empty
        #[arg(long, requires = "from")]
        to: Option<String>,
    },
    /// Read the configuration and list every problem at once
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Make, list, exchange and revoke API keys
    Keys {
        #[command(flatten)]
        config: ConfigFile,
        #[command(subcommand)]
        command: keys::Command,
    },
    /// Interpret what lies in quarantine again: answers that were paid for and gave no image
    Recover {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        what: recover::Recover,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Ask a running gateway whether it lives; for containers
    Healthcheck {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Args)]
pub struct ConfigFile {
    /// Configuration file; `easel.toml` in the working directory when there is one
    #[arg(long, env = "EASEL_CONFIG")]
    pub config: Option<PathBuf>,
}
