//! Pauses between attempts: they double up to a limit and are jittered, so that many nodes do not knock together.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// A growing pause.
#[derive(Debug, Clone)]
pub struct Backoff {
    minimum: Duration,
    maximum: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `minimum` and grows to `maximum`.
    #[must_use]
    pub fn new(minimum: Duration, maximum: Duration) -> Backoff {
        Backoff { minimum, maximum: maximum.max(minimum), next: minimum }
    }

    /// Returns the pause before the next attempt: between half of the current step and all of it.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.maximum);
        jittered(step)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.minimum;
    }
}

/// Returns a random duration between half of `step` and all of it.
#[must_use]
pub fn jittered(step: Duration) -> Duration {
    let half = step / 2;
    half + half.mul_f64(random_fraction())
}

/// Returns a random number from 0 to 1; good for spreading load, not for secrets.
#[must_use]
pub fn random_fraction() -> f64 {
    // Every RandomState has keys of its own, which come from the system's randomness.
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let fraction = bits as f64 / (1u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_limit_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for step in [1, 2, 4, 5, 5] {
            let delay = backoff.next_delay();
            let step = Duration::from_secs(step);
            assert!(delay >= step / 2 && delay <= step, "{delay:?} for {step:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }
}
