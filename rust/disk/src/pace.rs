//! When the next sync may begin: at once for one who is alone, spaced out under load, where waiting gathers more.

use std::time::Duration;

/// A group of at least so many bytes says that there is load: about ten messages.
const LOAD_BYTES: usize = 4 * 1024;

/// The pace of the syncs.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    began: Option<Duration>,
    is_loaded: bool,
}

impl Pace {
    pub fn new(interval: Duration) -> Self {
        Self { interval, began: None, is_loaded: false }
    }

    /// How long to wait and gather before the next sync.
    pub fn wait(&self, now: Duration) -> Duration {
        match self.began {
            Some(began) if self.is_loaded => (began + self.interval).saturating_sub(now),
            _ => Duration::ZERO,
        }
    }

    /// A sync of so many bytes begins.
    pub fn begin(&mut self, now: Duration, bytes: usize) {
        self.began = Some(now);
        self.is_loaded = bytes >= LOAD_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_never_waits_and_load_is_spaced_out() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(ms(1));
        assert_eq!(pace.wait(ms(5)), Duration::ZERO);
        pace.begin(ms(5), 300);
        assert_eq!(pace.wait(ms(5)), Duration::ZERO);
        pace.begin(ms(5), LOAD_BYTES);
        assert_eq!(pace.wait(ms(5)), ms(1));
        assert_eq!(pace.wait(ms(6)), Duration::ZERO);
        assert_eq!(pace.wait(ms(9)), Duration::ZERO);
    }
}
