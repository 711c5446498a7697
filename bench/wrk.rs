//! The load generator: `wrk`, as the distribution packages it, against one address at a time; its answers are checked by
//! their status, and what the target's process paid in CPU time is read beside it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::world::KEY;

/// One run's figures.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Answers a second.
    pub per_s: f64,
    /// Latency in milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Answers in all.
    pub answers: f64,
    /// CPU seconds of the target per 1,000 answers.
    pub cpu_s: f64,
}

/// What is asked.
pub struct Ask<'a> {
    pub url: &'a str,
    /// A wrk script that forms the requests.
    pub script: &'a Path,
    pub connections: usize,
    pub seconds: u64,
}

impl Ask<'_> {
    /// Asks, while the process `target` answers.
    pub async fn run(&self, target: u32) -> Result<Load> {
        let before = cpu_seconds(target)?;
        let mut wrk = Command::new("wrk");
        wrk.args(["-t2", "--latency", "--timeout", "10s", "-c", &self.connections.to_string()])
            .args(["-d", &format!("{}s", self.seconds), "-s"])
            .arg(self.script)
            .arg(self.url);
        let ran = tokio::task::spawn_blocking(move || wrk.output()).await?.context("wrk does not start")?;
        let spent = cpu_seconds(target)? - before;
        let said = String::from_utf8_lossy(&ran.stdout);
        ensure!(
            ran.status.success() && ran.stderr.is_empty(),
            "wrk: {said}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        let mut load = read(&said).with_context(|| format!("wrk said: {said}"))?;
        ensure!(load.answers > 0.0, "no answer within {} s: {said}", self.seconds);
        load.cpu_s = spent * 1_000.0 / load.answers;
        Ok(load)
    }
}

/// A wrk script that posts the same all the time.
pub fn script(path: &Path, body: &str) -> Result<()> {
    write(
        path,
        &format!(
            "wrk.method = \"POST\"\nwrk.headers[\"content-type\"] = \"application/json\"\nwrk.body = [==[{body}]==]\n"
        ),
    )
}

/// A wrk script that posts this body, `TOKEN` in it a word of its own in each.
pub fn script_numbered(path: &Path, body: &str) -> Result<()> {
    write(
        path,
        &format!(
            "local threads, n = 0, 0\nsetup = function(thread) thread:set(\"me\", threads) threads = threads + 1 end\n\
             wrk.headers[\"content-type\"] = \"application/json\"\n\
             local head, tail = ([==[{body}]==]):match(\"^(.*)TOKEN(.*)$\")\n\
             request = function() n = n + 1 return wrk.format(\"POST\", nil, nil, head .. me .. \"-\" .. n .. tail) end\n"
        ),
    )
}

/// A wrk script that asks for one path after the other.
pub fn script_over(path: &Path, paths: &[String]) -> Result<()> {
    let list = paths.iter().map(|path| format!("\"{path}\"")).collect::<Vec<_>>().join(",");
    write(
        path,
        &format!(
            "local paths = {{{list}}}\nlocal asks, at = {{}}, 0\n\
             init = function() for i, path in ipairs(paths) do asks[i] = wrk.format(\"GET\", path) end at = math.random(#asks) end\n\
             request = function() at = at % #asks + 1 return asks[at] end\n"
        ),
    )
}

/// With the caller's key.
fn write(path: &Path, script: &str) -> Result<()> {
    let key = format!("wrk.headers[\"authorization\"] = \"Bearer {KEY}\"\n");
    Ok(std::fs::write(path, key + script)?)
}

fn read(said: &str) -> Option<Load> {
    // An answer that is fast and wrong is no answer.
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        return None;
    }
    let after = |what: &str| said.lines().find_map(|line| line.trim().strip_prefix(what)).map(str::trim);
    let totals = said.lines().find(|line| line.contains(" requests in "))?;
    Some(Load {
        per_s: after("Requests/sec:")?.parse().ok()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
        answers: totals.split_whitespace().next()?.parse().ok()?,
        cpu_s: 0.0,
    })
}

fn milliseconds(text: &str) -> Option<f64> {
    let (unit, factor) = [("us", 0.001), ("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0)]
        .into_iter()
        .find(|(unit, _)| text.ends_with(unit))?;
    Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor)
}

/// What a process has paid so far, in seconds of CPU time; Linux counts in hundredths.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after = stat.rsplit(')').next().context("no stat")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("no CPU time");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
