//! Wrong keys, counted by address and by the key they pretend to be: after twenty in a minute the answer to further ones is
//! 429 instead of 401. A right key is never refused on account of somebody else's guesses: that would let anybody who knows
//! a key's id lock its owner out, and 256 random bits are not guessed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::clock::Clock;
use crate::domain::id::KeyId;

/// Wrong keys that are answered plainly, a minute.
const PLAINLY: u32 = 20;
/// So many guessers are told apart; the rest are counted together.
const GUESSERS: usize = 10_000;

#[derive(PartialEq, Eq, Hash)]
enum Guesser {
    /// An address; of IPv6 the network, because every host has billions.
    From(IpAddr),
    At(KeyId),
    Rest,
}

/// Wrong keys of this minute.
pub(super) struct Guesses {
    clock: Arc<dyn Clock>,
    minute: Mutex<(i64, HashMap<Guesser, u32>)>,
}

impl Guesses {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, minute: Mutex::default() }
    }

    /// Counts a wrong key; how long to stay away, when it was one too many.
    pub fn count(&self, from: Option<IpAddr>, at: Option<KeyId>) -> Option<Duration> {
        let now = self.clock.now().0;
        let number = now.div_euclid(60_000);
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.0 != number {
            *minute = (number, HashMap::new());
        }
        let guessers = [from.map(|ip| Guesser::From(network(ip))), at.map(Guesser::At)];
        let mut most = 0;
        for guesser in guessers.into_iter().flatten() {
            let full = minute.1.len() >= GUESSERS && !minute.1.contains_key(&guesser);
            let count = minute.1.entry(if full { Guesser::Rest } else { guesser }).or_default();
            *count = count.saturating_add(1);
            most = most.max(*count);
        }
        if most == PLAINLY + 1 {
            tracing::warn!(client.address = ?from, key.id = ?at.map(|id| id.to_string()), "wrong keys, again and again");
        }
        let rest = Duration::from_millis(u64::try_from(60_000 - now.rem_euclid(60_000)).unwrap_or(60_000));
        (most > PLAINLY).then_some(rest)
    }
}

fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{Millis, TestClock};

    #[test]
    fn twenty_wrong_keys_a_minute_are_answered_plainly() {
        let clock = Arc::new(TestClock::at(Millis(1_790_000_000_000)));
        let guesses = Guesses::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let (here, there) = ("2001:db8::1".parse().ok(), "2001:db8:0:1::1".parse().ok());
        for _ in 0..20 {
            assert_eq!(guesses.count(here, None), None);
        }
        // Another host of the same network is the same guesser; another network is not.
        assert!(guesses.count("2001:db8::ffff".parse().ok(), None).is_some());
        assert_eq!(guesses.count(there, None), None);
        let id = KeyId::mint(clock.as_ref());
        for host in 0..20u8 {
            assert_eq!(guesses.count(Some(IpAddr::from([10, 0, 0, host])), Some(id)), None);
        }
        assert!(
            guesses.count(Some(IpAddr::from([10, 0, 0, 99])), Some(id)).is_some(),
            "whoever guesses at one key"
        );
        clock.advance(Duration::from_mins(1));
        assert_eq!(guesses.count(here, Some(id)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guesses = Guesses::new(Arc::new(TestClock::at(Millis(0))));
        for host in 0..30_000u32 {
            guesses.count(Some(IpAddr::from(host.to_be_bytes())), None);
        }
        assert!(guesses.minute.lock().unwrap().1.len() <= GUESSERS + 1);
        assert!(guesses.count(Some(IpAddr::from([9, 9, 9, 9])), None).is_some());
    }
}
