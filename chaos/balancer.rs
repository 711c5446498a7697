//! The one address that several gateways share, for providers that call back: each connection goes to any of those that
//! take it. It knows nothing of health: a gateway that is frozen takes connections, and the provider's next try may be
//! luckier.

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A balancer that listens.
pub struct Balancer {
    url: String,
    _server: JoinSet<()>,
}

impl Balancer {
    /// Listens on a free port in front of these ports.
    pub async fn start(ports: Vec<u16>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, ports.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { url, _server: server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Carries one connection to any gateway that takes it; hangs up when none does.
async fn carry(mut client: TcpStream, mut ports: Vec<u16>) {
    fastrand::shuffle(&mut ports);
    for port in ports {
        if let Ok(mut gateway) = TcpStream::connect(("127.0.0.1", port)).await {
            // Either side may be killed at any moment: that is what this is for.
            let _ = copy_bidirectional(&mut client, &mut gateway).await;
            return;
        }
    }
}
