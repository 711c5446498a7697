//! A child process under watch: what it says is kept in a file, that it serves and that it has ended are events one can
//! wait for, and it is killed by its own handle alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

/// How far a child has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Sign {
    Starting,
    Serving,
    Ended,
}

/// A started program, killed when dropped.
pub struct Process {
    child: Child,
    sign: watch::Receiver<Sign>,
    name: String,
}

impl Process {
    /// Starts it. `serving` is in the line by which it says that it is ready; all its lines go to the end of `log`.
    pub fn start(name: &str, mut command: Command, serving: &'static str, log: &Path) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let (told, sign) = watch::channel(Sign::Starting);
        let out = child.stdout.take().context("no standard output")?;
        let err = child.stderr.take().context("no standard error")?;
        for stream in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let mut log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
            let told = told.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line);
                    // A log that cannot be written would hide what the suite is to find: the line is worth a panic.
                    log.write_all(format!("{line}\n").as_bytes()).expect("the log can be written");
                    if line.contains(serving) {
                        told.send_if_modified(|sign| {
                            std::mem::replace(sign, Sign::Serving) == Sign::Starting
                        });
                    }
                }
                // The pipe closes when the process is gone, however it went.
                told.send_replace(Sign::Ended);
            });
        }
        Ok(Self { child, sign, name: name.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it serves.
    pub async fn serving(&mut self) -> Result<()> {
        let reached =
            tokio::time::timeout(Duration::from_mins(1), self.sign.wait_for(|sign| *sign != Sign::Starting));
        let sign = *reached.await.with_context(|| format!("{} does not come up", self.name))??;
        if sign == Sign::Ended {
            bail!("{} ended before it served: {}", self.name, self.child.wait()?);
        }
        Ok(())
    }

    /// Waits until it has ended by itself; `None` when it is still there after `patience`.
    pub async fn ended(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let ended = self.sign.wait_for(|sign| *sign == Sign::Ended);
        if tokio::time::timeout(patience, ended).await.is_err() {
            return Ok(None);
        }
        Ok(Some(self.child.wait()?))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM: it is asked to finish what it has in hand and to go.
    pub fn ask_to_stop(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// SIGSTOP: it does nothing any more, and keeps its connections and its memory.
    pub fn freeze(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT: it goes on where it was, and knows of no time that has passed.
    pub fn thaw(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> Result<()> {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status()?;
        anyhow::ensure!(sent.success(), "cannot send {name} to {}", self.name);
        Ok(())
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        Ok(Memory::of(self.id())?.resident_kib)
    }
}

/// What a process has in memory, in KiB. The page cache of files that it reads and writes is no part of it.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit is part of each name")]
pub struct Memory {
    /// Now.
    pub resident_kib: u64,
    /// At its highest, by the kernel's own count.
    pub high_water_kib: u64,
    /// What no file stands behind.
    pub anonymous_kib: u64,
}

impl Memory {
    /// What a process has now.
    pub fn of(process: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let read = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.context(name.to_owned())?.trim().trim_end_matches(" kB").trim().parse()?)
        };
        Ok(Self {
            resident_kib: read("VmRSS:")?,
            high_water_kib: read("VmHWM:")?,
            anonymous_kib: read("RssAnon:")?,
        })
    }

    /// The higher of each figure.
    pub fn max(self, other: Self) -> Self {
        Self {
            resident_kib: self.resident_kib.max(other.resident_kib),
            high_water_kib: self.high_water_kib.max(other.high_water_kib),
            anonymous_kib: self.anonymous_kib.max(other.anonymous_kib),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port below those that the system gives to outgoing connections, so that it is still free at the next start.
pub fn free_port() -> Result<u16> {
    for _ in 0..1_000 {
        let port = fastrand::u16(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}
