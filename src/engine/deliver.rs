//! Sends the webhooks that are owed: claim what is due as leases, post, reschedule or close. A host has a few connections
//! and no more, and letters that failed before have a share and a pace of their own, so that a dead receiver, or a hundred
//! thousand of them, delay nobody else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::Inner;
use super::worker::APART;
use crate::chaos::crash;
use crate::domain::clock::Millis;
use crate::domain::delivery::{Delivery, Schedule, Sequel, TEST_EVENT, Try};
use crate::domain::secret::random_bytes;
use crate::store::{Leased, StoreError};

/// The loop looks again after this long even when nothing told it to.
const FALLBACK: Duration = Duration::from_secs(1);
/// It looks no sooner than this at what it has left lying: letters behind others, hosts that are full, retries beyond the pace.
const BREATH: Duration = Duration::from_millis(200);
/// A lease outlives the longest try by this much.
const MARGIN: Duration = Duration::from_secs(15);
/// How many letters are looked at in one go: few at first, because one place that is free again is filled by one letter.
const FIRST_LOOK: usize = 16;
const LOOK: usize = 256;
/// How many hosts in trouble are remembered; the rows remember the rest.
const REMEMBERED: usize = 10_000;

/// The numbers of the webhooks.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// What secrets are derived from.
    pub key: Vec<u8>,
    /// How long a receiver may take.
    pub timeout: Duration,
    /// How many letters may be on their way to one host.
    pub per_host: usize,
    /// How many may be on their way in all; those that failed before have at most half of it.
    pub concurrency: usize,
    /// How many of those that failed before are tried in a second.
    pub retries_per_s: u32,
    /// The pauses between tries.
    pub schedule: Schedule,
    /// For how long the secret before signs along.
    pub overlap: Duration,
}

/// What is on its way, and who is in trouble.
#[derive(Default)]
pub(super) struct Mail(Mutex<OnItsWay>);

#[derive(Default)]
struct OnItsWay {
    hosts: HashMap<String, usize>,
    total: usize,
    troubled: usize,
    /// Hosts whose last letter failed, and the order they are forgotten in.
    trouble: HashSet<String>,
    oldest: VecDeque<String>,
    /// Retries that may be made at once, as of a moment.
    allowance: Option<(f64, Millis)>,
}

impl OnItsWay {
    fn judge(&mut self, host: &str, well: bool) {
        if well {
            self.trouble.remove(host);
        } else if self.trouble.insert(host.to_owned()) {
            self.oldest.push_back(host.to_owned());
            while self.oldest.len() > REMEMBERED {
                let forgotten = self.oldest.pop_front();
                self.trouble.remove(forgotten.as_deref().unwrap_or_default());
            }
        }
    }

    /// How many retries may be made now: so many a second, none saved up beyond one second's.
    fn allowance(&mut self, per_s: u32, now: Millis) -> usize {
        let most = f64::from(per_s);
        let (left, since) = self.allowance.unwrap_or((most, now));
        let left = (left + most * now.since(since).as_secs_f64()).min(most);
        self.allowance = Some((left, now));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and not negative")]
        let whole = left as usize;
        whole
    }

    fn spend(&mut self, retries: usize) {
        if let Some((left, _)) = &mut self.allowance {
            #[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
            let spent = retries as f64;
            *left = (*left - spent).max(0.0);
        }
    }
}

impl Mail {
    fn lock(&self) -> MutexGuard<'_, OnItsWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends until told to stop.
pub(super) async fn serve(engine: Arc<Inner>) {
    while !engine.stop.is_cancelled() {
        let apart = Instant::now() + APART;
        match round(&engine).await {
            Ok(sending) => {
                if sending.is_empty() {
                    rest(&engine).await;
                }
                tokio::time::sleep_until(apart.into()).await;
            }
            Err(error) => {
                tracing::error!(%error, "cannot claim webhooks; trying again");
                tokio::select! {
                    () = tokio::time::sleep(FALLBACK) => {}
                    () = engine.stop.cancelled() => {}
                }
            }
        }
    }
}

async fn rest(engine: &Inner) {
    let next = engine.store.next_delivery().await.ok().flatten();
    let pause = next.map_or(FALLBACK, |at| match at.since(engine.clock.now()) {
        Duration::ZERO => BREATH,
        wait => wait.min(FALLBACK),
    });
    tokio::select! {
        () = engine.store.changes().mail() => {}
        () = tokio::time::sleep(pause) => {}
        () = engine.stop.cancelled() => {}
    }
}

/// Claims once and starts on what it got.
pub(super) async fn round(engine: &Arc<Inner>) -> Result<Vec<JoinHandle<()>>, StoreError> {
    let settings = &engine.settings.webhooks;
    let mut sending = Vec::new();
    for troubled in [false, true] {
        let (room, mut hosts) = {
            let mut mail = engine.mail.lock();
            let free = settings.concurrency.saturating_sub(mail.total);
            let share = (settings.concurrency / 2).max(1).saturating_sub(mail.troubled);
            let pace = mail.allowance(settings.retries_per_s, engine.clock.now());
            (if troubled { free.min(share).min(pace) } else { free }, mail.hosts.clone())
        };
        let (take, demote) = choose(engine, troubled, room, &mut hosts).await?;
        if take.is_empty() && demote.is_empty() {
            continue;
        }
        let until = engine.clock.now() + settings.timeout + MARGIN;
        let leased = engine.store.lease_deliveries(take, demote, until).await?;
        if troubled {
            engine.mail.lock().spend(leased.len());
        }
        sending.extend(leased.into_iter().map(|leased| send(engine, leased, troubled)));
    }
    Ok(sending)
}

/// Which of the letters that are due go now, and which are moved among those in trouble: their host failed last time.
async fn choose(
    engine: &Inner,
    troubled: bool,
    room: usize,
    hosts: &mut HashMap<String, usize>,
) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let most = engine.settings.webhooks.per_host;
    let (mut take, mut demote) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut look = FIRST_LOOK;
    while take.len() < room {
        // At most `concurrency / per_host` hosts can be full, so the list stays short.
        let full: Vec<String> =
            hosts.iter().filter(|(_, count)| **count >= most).map(|(host, _)| host.clone()).collect();
        let due = engine.store.due(troubled, &full, look).await?;
        let whole = due.len() < look;
        let mut news = false;
        let mail = engine.mail.lock();
        for due in due {
            if !seen.insert(due.id.clone()) {
                continue;
            }
            news = true;
            let used = hosts.entry(due.host.clone()).or_default();
            if !troubled && mail.trouble.contains(&due.host) {
                demote.push(due.id);
            } else if *used < most && take.len() < room {
                *used += 1;
                take.push(due.id);
            }
        }
        if whole || (!news && look == LOOK) {
            break;
        }
        look = LOOK;
    }
    Ok((take, demote))
}

fn send(engine: &Arc<Inner>, leased: Leased, troubled: bool) -> JoinHandle<()> {
    let host = leased.delivery.host();
    let mut mail = engine.mail.lock();
    *mail.hosts.entry(host.clone()).or_default() += 1;
    mail.total += 1;
    mail.troubled += usize::from(troubled);
    drop(mail);
    let worker = Arc::clone(engine);
    engine.tracker.spawn(async move {
        let _guard = Arrived { engine: Arc::clone(&worker), host, troubled };
        worker.deliver(leased).await;
    })
}

/// Makes room again, whatever happened.
struct Arrived {
    engine: Arc<Inner>,
    host: String,
    troubled: bool,
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let mut mail = self.engine.mail.lock();
        if let Some(count) = mail.hosts.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                mail.hosts.remove(&self.host);
            }
        }
        mail.total -= 1;
        mail.troubled -= usize::from(self.troubled);
        drop(mail);
        self.engine.store.changes().mail_due();
    }
}

impl Inner {
    /// One try of one letter.
    async fn deliver(&self, leased: Leased) {
        let Leased { mut delivery, version, rotation, trace } = leased;
        let mut switched_off = None;
        if let Some(webhook) = delivery.webhook {
            match self.store.endpoint(webhook).await {
                // Written in the moment in which its endpoint was switched off.
                Ok(Some(endpoint)) if endpoint.disabled.is_some() && delivery.event != TEST_EVENT => {
                    return Self::close(self.store.drop_delivery(delivery.id).await, &delivery);
                }
                // …or removed.
                Ok(None) => return Self::close(self.store.drop_delivery(delivery.id).await, &delivery),
                Ok(Some(endpoint)) => switched_off = endpoint.disabled.map(|_| webhook),
                // Its lease ends by itself.
                Err(error) => return Self::close(Err(error), &delivery),
            }
        }
        let (at, began) = (self.clock.now(), Instant::now());
        let place = self.place_of_letter(&delivery, trace.as_ref());
        let span = place.call("webhook.post");
        let answer = span.around(self.post(&delivery, rotation, at, span.place())).await;
        super::post::tell(&span, &delivery, &answer);
        drop(span);
        let (receipt, error) = match answer {
            Ok(receipt) => (Some(receipt), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let status = receipt.map(|receipt| receipt.status);
        let well = status.is_some_and(|status| (200..300).contains(&status));
        if well {
            crash("webhook.sent");
        }
        self.mail.lock().judge(&delivery.host(), well);
        let outcome = if well { "delivered" } else { "failed" };
        metrics::counter!(crate::domain::meter::WEBHOOK_TRIES, "outcome" => outcome).increment(1);
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let tried = Try { at, duration_ms, status, error };
        let wish = receipt.and_then(|receipt| receipt.retry_after);
        let [dice] = random_bytes::<1>();
        let schedule = &self.settings.webhooks.schedule;
        let sequel = delivery.tried(tried.clone(), wish, schedule, f64::from(dice) / 255.0, self.clock.now());
        tracing::debug!(
            webhook.id = %delivery.id, event = delivery.event, tries = delivery.tries, status, duration_ms, ?sequel, "a webhook was tried"
        );
        if matches!(sequel, Sequel::Dead | Sequel::Gone) {
            tracing::warn!(
                webhook.id = %delivery.id, host = delivery.host(), tries = delivery.tries, status,
                "a webhook was given up; it can be sent again with POST /webhooks/deliveries/{{id}}/redeliver"
            );
        }
        let leased = Leased { delivery: delivery.clone(), version, rotation, trace };
        let mut saved = place.around(self.store.close_delivery(leased, sequel)).await;
        if let Some(webhook) = switched_off.filter(|_| well && delivery.event == TEST_EVENT) {
            // Who takes a test is back.
            saved = saved.and(self.store.switch_endpoint(webhook, &delivery.tenant, None).await);
        }
        Self::close(saved, &delivery);
    }

    /// A letter whose fate could not be saved is sent again when its lease ends: rather twice than never.
    fn close(saved: Result<(), StoreError>, delivery: &Delivery) {
        if let Err(error) = saved {
            tracing::error!(webhook.id = %delivery.id, %error, "cannot save what became of a webhook; it will be sent again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_have_a_pace() {
        let mut mail = OnItsWay::default();
        assert_eq!(mail.allowance(10, Millis(0)), 10);
        mail.spend(10);
        assert_eq!(mail.allowance(10, Millis(0)), 0);
        assert_eq!(mail.allowance(10, Millis(500)), 5);
        assert_eq!(mail.allowance(10, Millis(60_000)), 10, "nothing is saved up");
    }

    #[test]
    fn a_host_is_in_trouble_until_it_answers_well() {
        let mut mail = OnItsWay::default();
        mail.judge("a:443", false);
        assert!(mail.trouble.contains("a:443"));
        mail.judge("a:443", true);
        assert!(mail.trouble.is_empty());
        for n in 0..REMEMBERED + 5 {
            mail.judge(&format!("{n}:443"), false);
        }
        assert!(mail.trouble.len() <= REMEMBERED && !mail.trouble.contains("0:443"));
    }
}
