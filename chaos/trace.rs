//! What the system sees of an acceptance: strace on the gateway shows whether the write-ahead log was synced between the
//! arrival of a request and the answer that promises it. kill -9 cannot show that; only a power cut could.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A tracer attached to a gateway, detached when dropped.
pub struct Trace {
    child: Child,
    file: std::path::PathBuf,
}

/// System calls by which requests come, logs are synced and answers go.
const CALLS: &str = "trace=fdatasync,fsync,read,recvfrom,recvmsg,write,writev,sendto,sendmsg";

impl Trace {
    /// Attaches to all threads of a process and waits until it holds them.
    pub async fn attach(process: u32, folder: &Path) -> Result<Self> {
        let file = folder.join("trace");
        let child = Command::new("strace")
            .args(["-f", "-y", "-s", "64", "-e", CALLS, "-e", "signal=none", "-o"])
            .arg(&file)
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("strace cannot be started (apt-get install strace)")?;
        let trace = Self { child, file };
        let begun = Instant::now();
        while !traced(process)? {
            if begun.elapsed() > Duration::from_secs(20) {
                bail!("strace does not get hold of the gateway");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(trace)
    }

    /// Whether the write-ahead log was synced after the request came and before its 202 went out.
    pub async fn synced_before_the_answer(mut self) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(&self.file)?;
            if let Some(synced) = read(&text) {
                self.child.kill()?;
                self.child.wait()?;
                return Ok(synced);
            }
            if begun.elapsed() > Duration::from_secs(10) {
                bail!(
                    "the trace shows no request with its answer:\n{}",
                    text.chars().take(2_000).collect::<String>()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether every thread of the process has a tracer.
fn traced(process: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let status = std::fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        if status.contains("TracerPid:\t0\n") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a trace; `None` while it does not show a POST and its 202.
pub fn read(text: &str) -> Option<bool> {
    let asked = text.find("\"POST /generate")?;
    let rest = &text[asked..];
    let promised = rest.find("\"HTTP/1.1 202")?;
    let between = rest[..promised].lines();
    // A call that another thread interrupts is shown in two lines; the first names the file.
    let mut synced = false;
    for line in between {
        let sync = line.contains("fdatasync(") || line.contains("fsync(");
        synced |= sync && line.contains("-wal>");
    }
    Some(synced)
}
