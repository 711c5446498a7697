//! A poll schedule on paper: the pauses of `src/engine/pace.rs` over jobs of 2 to 30 s, without a network in between.

use clap::Args;

use crate::figures::{Sample, Table};

/// How many jobs are drawn.
const JOBS: usize = 100_000;

/// The numbers of a schedule.
#[derive(Debug, Args)]
pub struct Schedule {
    /// The pause before the first poll, in seconds.
    #[arg(long, default_value_t = 2.0)]
    first: f64,
    /// The pause after it, in seconds.
    #[arg(long, default_value_t = 2.5)]
    second: f64,
    /// What each pause is multiplied by.
    #[arg(long, default_value_t = 1.2)]
    grow: f64,
    /// How many pauses more are as long as the second, before they grow.
    #[arg(long, default_value_t = 7)]
    steady: i32,
    /// The longest pause, in seconds.
    #[arg(long, default_value_t = 15.0)]
    most: f64,
}

impl Schedule {
    /// Plays it through.
    pub fn measure(&self) -> String {
        let (mut shares, mut polls) = (Vec::with_capacity(JOBS), Vec::with_capacity(JOBS));
        for _ in 0..JOBS {
            let job = fastrand::f64().mul_add(28.0, 2.0);
            let (mut now, mut asked) = (self.first, 1);
            while now < job {
                let grown = self.second * self.grow.powi((asked - 1 - self.steady).max(0));
                now += grown.min(self.most) * fastrand::f64().mul_add(0.4, 0.8);
                asked += 1;
            }
            shares.push((now - job) / job * 100.0);
            polls.push(f64::from(asked));
        }
        let (shares, polls) = (Sample::new(shares), Sample::new(polls));
        let title = format!(
            "Schedule: {} s, {} s and {} more of these, ×{}, at most {} s",
            self.first, self.second, self.steady, self.grow, self.most
        );
        let mut table = Table::new(&title);
        table.at_most("lag as a share of the generation time, median", shares.median(), 10.0, " %");
        table.row("the same, p90", format!("{:.1} %", shares.percentile(90)));
        table.at_most("polls per task, p99", polls.percentile(99), 12.0, "");
        table.row("polls per task, most of all", polls.max());
        table.row("polls per task, mean", format!("{:.1}", polls.mean()));
        table.finish()
    }
}
