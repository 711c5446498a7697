//! Who may download just now: so many at once, and no host more than its share, so that a host that hangs delays only what
//! comes from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::clock::Millis;

/// While a host of which nothing is known yet has its share, who comes next looks again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// A host that hangs rests so long at first, doubled each time, and…
const REST: Duration = Duration::from_secs(2);
/// …at most this long: then one download finds out whether it is well again.
const REST_MOST: Duration = Duration::from_secs(30);
/// So many times the whole may wait in place for a host that is well.
const IN_LINE: usize = 4;
/// More hosts than this are not remembered while nothing is under way with them.
const REMEMBERED: usize = 1_000;

/// The downloads under way, by host.
pub(in crate::engine) struct Hosts {
    most: usize,
    all: Arc<Semaphore>,
    by_name: Mutex<HashMap<String, Host>>,
}

struct Host {
    /// Places of a host that is well: three of four, so that others go on should it begin to hang.
    places: Arc<Semaphore>,
    /// Downloads under way or in line.
    under_way: usize,
    /// Whether one has come from it since it was last in trouble.
    proven: bool,
    /// How often in a row it has hung.
    hung: u32,
    rests_until: Option<Millis>,
}

/// The right to download; to be held for as long as it takes.
pub(in crate::engine) struct Turn {
    _place: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
    _entry: Entry,
}

/// A download that is under way or in line.
struct Entry {
    hosts: Arc<Hosts>,
    host: String,
}

/// How a host is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    /// Its name.
    pub host: String,
    /// Downloads under way or in line.
    pub under_way: usize,
    /// Until when it is left alone because it hung.
    pub rests_until: Option<Millis>,
}

impl Hosts {
    /// So many downloads at once.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, all: Arc::new(Semaphore::new(most)), by_name: Mutex::default() })
    }

    /// Waits for the turn to download from `host`; an error says after how long to come again, where others are not to be kept
    /// waiting by it.
    pub async fn turn(self: &Arc<Self>, host: &str, now: Millis) -> Result<Turn, Duration> {
        let (entry, places) = self.enter(host, now)?;
        let place = match places {
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        let common = Arc::clone(&self.all).acquire_owned().await.ok();
        // It may have begun to hang while this one stood in line.
        if let Some(rest) = self.lock().get(host).and_then(|one| one.rest(now)) {
            return Err(rest);
        }
        Ok(Turn { _place: (place, common), _entry: entry })
    }

    fn enter(self: &Arc<Self>, host: &str, now: Millis) -> Result<(Entry, Option<Arc<Semaphore>>), Duration> {
        let mut hosts = self.lock();
        if hosts.len() >= REMEMBERED {
            hosts.retain(|_, one| one.under_way > 0 || one.rests_until.is_some_and(|until| now < until));
        }
        let places = (self.most * 3 / 4).max(1);
        let one = hosts.entry(host.to_owned()).or_insert_with(|| Host {
            places: Arc::new(Semaphore::new(places)),
            under_way: 0,
            proven: false,
            hung: 0,
            rests_until: None,
        });
        if let Some(rest) = one.rest(now) {
            return Err(rest);
        }
        let share = match (one.hung, one.proven) {
            (1.., _) => 1,
            (0, false) => (self.most / 4).max(1),
            (0, true) => self.most * IN_LINE,
        };
        if one.under_way >= share {
            return Err(AGAIN);
        }
        one.under_way += 1;
        let places = one.proven.then(|| Arc::clone(&one.places));
        Ok((Entry { hosts: Arc::clone(self), host: host.to_owned() }, places))
    }

    /// Takes note of how a download went: whether the host answered at its pace.
    pub fn note(&self, host: &str, well: bool, now: Millis) {
        let mut hosts = self.lock();
        let Some(one) = hosts.get_mut(host) else { return };
        if well {
            (one.proven, one.hung, one.rests_until) = (true, 0, None);
        } else {
            let rest = REST.saturating_mul(1 << one.hung.min(8)).min(REST_MOST);
            (one.proven, one.hung, one.rests_until) = (false, one.hung + 1, Some(now + rest));
        }
    }

    /// Hosts with downloads under way or in trouble, those in trouble first.
    pub fn view(&self, now: Millis) -> Vec<HostView> {
        let hosts = self.lock();
        let mut views: Vec<HostView> = hosts
            .iter()
            .map(|(host, one)| HostView {
                host: host.clone(),
                under_way: one.under_way,
                rests_until: one.rests_until.filter(|until| now < *until),
            })
            .filter(|one| one.under_way > 0 || one.rests_until.is_some())
            .collect();
        views.sort_by(|a, b| {
            (b.rests_until, b.under_way, &a.host).cmp(&(a.rests_until, a.under_way, &b.host))
        });
        views
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// How long it is still left alone.
    fn rest(&self, now: Millis) -> Option<Duration> {
        // A clock that was ahead for a moment makes nobody wait longer than the longest rest.
        let until = self.rests_until.filter(|until| now < *until)?;
        Some(until.since(now).min(REST_MOST))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(one) = self.hosts.lock().get_mut(&self.host) {
            one.under_way = one.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000_000);

    #[tokio::test]
    async fn a_host_has_no_more_than_its_share() {
        let hosts = Hosts::new(32);
        let mut turns = Vec::new();
        for _ in 0..8 {
            turns.push(
                hosts.turn("new.example", NOW).await.map_err(|again| again.as_secs_f64()).expect("its share"),
            );
        }
        assert_eq!(hosts.turn("new.example", NOW).await.err(), Some(AGAIN));
        assert!(hosts.turn("other.example", NOW).await.is_ok(), "others go on");
        hosts.note("new.example", true, NOW);
        for _ in 0..16 {
            turns.push(
                hosts
                    .turn("new.example", NOW)
                    .await
                    .map_err(|again| again.as_secs_f64())
                    .expect("it is well: three of four"),
            );
        }
        assert!(hosts.turn("other.example", NOW).await.is_ok(), "others go on all the same");
        drop(turns);
        assert_eq!(hosts.view(NOW), []);
    }

    #[tokio::test]
    async fn a_host_that_hangs_is_left_for_later_and_opens_by_itself() {
        let hosts = Hosts::new(32);
        drop(hosts.turn("slow.example", NOW).await);
        let mut now = NOW;
        for rest in [2, 4, 8, 16, 30, 30] {
            hosts.note("slow.example", false, now);
            let rest = Duration::from_secs(rest);
            assert_eq!(hosts.turn("slow.example", now).await.err(), Some(rest));
            now = now + rest;
            let one = hosts
                .turn("slow.example", now)
                .await
                .map_err(|again| again.as_secs_f64())
                .expect("one finds out");
            assert_eq!(hosts.turn("slow.example", now).await.err(), Some(AGAIN));
            drop(one);
        }
        hosts.note("slow.example", true, now);
        let several = (hosts.turn("slow.example", now).await, hosts.turn("slow.example", now).await);
        assert!(several.0.is_ok() && several.1.is_ok());
        // By a clock that was ahead.
        hosts.note("slow.example", false, now + Duration::from_hours(5));
        assert!(hosts.turn("slow.example", now).await.err().expect("it rests") <= REST_MOST);
    }
}
