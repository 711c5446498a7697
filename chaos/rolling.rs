//! An upgrade under load: gateways of an older program on one database, each asked to stop, waited for, and started again
//! as the program under test, which migrates the schema while the others still write to it.

use std::time::{Duration, Instant};

use anyhow::Result;
use reqwest::StatusCode;

use crate::caller::Refusal;
use crate::checker::Finding;
use crate::fleet::Fleet;

/// How long both programs work side by side before the next gateway's turn.
const TOGETHER: Duration = Duration::from_secs(10);
/// How long a gateway may take to finish what is paid for.
const DRAIN: Duration = Duration::from_mins(2);

/// One gateway's turn.
#[derive(Debug, Clone)]
pub struct Turn {
    gateway: String,
    asked: Instant,
    serving: Instant,
    /// From SIGTERM to the end of the process.
    pub drained: Duration,
    /// From there until the new program served, its migrations included.
    pub started: Duration,
}

/// Every gateway's turn, one after the other.
pub async fn upgrade(fleet: &mut Fleet) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    tokio::time::sleep(TOGETHER).await;
    for at in 0..fleet.replicas() {
        let asked = Instant::now();
        let drained = fleet.retire(at, DRAIN).await?;
        let gone = Instant::now();
        fleet.start(at, &[]).await?;
        let serving = Instant::now();
        turns.push(Turn { gateway: fleet.url(at), asked, serving, drained, started: serving - gone });
        eprintln!("chaos: {} of {} gateways are upgraded", at + 1, fleet.replicas());
        tokio::time::sleep(TOGETHER).await;
    }
    Ok(turns)
}

/// What must hold beside the usual invariants.
pub fn judge(turns: &[Turn], refusals: &[Refusal]) -> Finding {
    let mut finding =
        Finding::new("R1", "no answer of 500 or more but 503 by a gateway that is being stopped");
    finding.checked = turns.len();
    for refusal in refusals {
        finding.check(excused(turns, refusal), || {
            format!("{} of {} at {}", refusal.status, refusal.path, refusal.gateway)
        });
    }
    finding
}

/// A request may be sent a moment before the gateway is asked to stop, and refused a moment after.
fn excused(turns: &[Turn], refusal: &Refusal) -> bool {
    let draining = turns.iter().any(|turn| {
        turn.gateway == refusal.gateway && refusal.asked <= turn.serving && turn.asked <= refusal.answered
    });
    draining && refusal.status == StatusCode::SERVICE_UNAVAILABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gateway_that_is_being_stopped_may_refuse() {
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        let turn = Turn {
            gateway: "http://a".into(),
            asked: begun + 2 * second,
            serving: begun + 4 * second,
            drained: second,
            started: second,
        };
        // Asked and answered so many seconds after the beginning.
        let violations = |gateway: &str, [asked, answered]: [u32; 2], status: StatusCode| {
            let path = "/generate".to_owned();
            let (asked, answered) = (begun + asked * second, begun + answered * second);
            let refusal = Refusal { asked, answered, gateway: gateway.into(), path, status };
            judge(std::slice::from_ref(&turn), &[refusal]).violations.len()
        };
        assert_eq!(violations("http://a", [3, 3], StatusCode::SERVICE_UNAVAILABLE), 0);
        assert_eq!(violations("http://a", [1, 3], StatusCode::SERVICE_UNAVAILABLE), 0);
        assert_eq!(violations("http://a", [3, 3], StatusCode::INTERNAL_SERVER_ERROR), 1);
        assert_eq!(violations("http://a", [0, 1], StatusCode::SERVICE_UNAVAILABLE), 1);
        assert_eq!(violations("http://a", [5, 5], StatusCode::SERVICE_UNAVAILABLE), 1);
        assert_eq!(violations("http://b", [3, 3], StatusCode::SERVICE_UNAVAILABLE), 1);
    }
}
