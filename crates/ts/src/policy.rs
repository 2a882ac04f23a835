//! What a job's exit status means, how long it may run and when it is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toolkit::exit;

use crate::page::Pace;

/// A set of exit statuses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Codes(Vec<(u8, u8)>);

impl Codes {
    /// Returns the set of these statuses.
    #[must_use]
    pub fn of(codes: &[u8]) -> Codes {
        Codes(codes.iter().map(|code| (*code, *code)).collect())
    }

    /// Parses `1,4,6`, ranges (`10-20`) and the word `signal` (128 + n for every signal n).
    ///
    /// # Errors
    /// Anything else, as a message for the user.
    pub fn parse(text: &str) -> Result<Codes, String> {
        let wrong = |part: &str| {
            format!("`{part}` is no exit status: write numbers from 0 to 255, ranges such as 10-20, or `signal`")
        };
        let mut codes = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            if part == "signal" {
                codes.push((exit::SIGNALED + 1, exit::SIGNALED + 64));
                continue;
            }
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let low: u8 = low.parse().map_err(|_| wrong(part))?;
            let high: u8 = high.parse().map_err(|_| wrong(part))?;
            if low > high {
                return Err(wrong(part));
            }
            codes.push((low, high));
        }
        Ok(Codes(codes))
    }

    /// Whether the set holds this status.
    #[must_use]
    pub fn contains(&self, code: u8) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&code))
    }
}

/// A range of pauses, as `MIN..MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    min_ms: u64,
    max_ms: u64,
}

impl Pauses {
    const DEFAULT: Pauses = Pauses { min_ms: 10_000, max_ms: 600_000 };

    /// Parses `10s..10m`.
    ///
    /// # Errors
    /// Anything else, as a message for the user.
    pub fn parse(text: &str) -> Result<Pauses, String> {
        let (min, max) =
            text.split_once("..").ok_or_else(|| format!("`{text}` is no range: write MIN..MAX, as in 10s..10m"))?;
        let min_ms = milliseconds(toolkit::duration::parse(min)?);
        let max_ms = milliseconds(toolkit::duration::parse(max)?);
        if min_ms == 0 || max_ms < min_ms {
            return Err(format!("`{text}` is no range: MIN is at least 1ms and MAX is not below it"));
        }
        Ok(Pauses { min_ms, max_ms })
    }
}

/// What is asked of one job's runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Statuses that mean success.
    pub success: Codes,
    /// Statuses after which the job is run again later.
    pub retry: Codes,
    /// The pauses before it is.
    pub backoff: Pauses,
    /// The time limit of a run.
    pub timeout_ms: Option<u64>,
    /// The time between TERM and KILL.
    pub kill_after_ms: u64,
    /// The runs are Puppet's, and its agent is kept out.
    #[serde(default)]
    pub puppet: bool,
    /// How kicks are gathered before a run.
    #[serde(default)]
    pub debounce: Option<Pauses>,
    /// The window over which hosts spread the starts of their runs.
    #[serde(default)]
    pub splay_ms: u64,
    /// The file that holds the queue's metrics.
    #[serde(default)]
    pub metrics: Option<String>,
    /// The executable that hears of each run's end.
    #[serde(default)]
    pub on_finish: Option<String>,
}

/// The part of the command line that makes a policy.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Start from Puppet's meaning of the statuses.
    pub puppet: bool,
    /// `--success`
    pub success: Option<Codes>,
    /// `--retry`
    pub retry: Option<Codes>,
    /// `--backoff`
    pub backoff: Option<Pauses>,
    /// `--timeout`
    pub timeout: Option<Duration>,
    /// `--kill-after`
    pub kill_after: Option<Duration>,
    /// `--debounce`
    pub debounce: Option<Pauses>,
    /// `--splay`
    pub splay: Option<Duration>,
    /// `--metrics`, as an absolute path
    pub metrics: Option<String>,
    /// `--on-finish`, as an absolute path or a name to be found in PATH
    pub on_finish: Option<String>,
}

impl Policy {
    /// Completes what was wished for.
    #[must_use]
    pub fn new(wishes: &Wishes) -> Policy {
        let (success, retry) = if wishes.puppet {
            // `puppet apply --detailed-exitcodes`: 2 is success with changes, 4 and 6 are failures of
            // resources, 1 is a failed run. A puppet that is killed, hangs, or is not there (126, 127: an
            // upgrade may be replacing it this minute) must run again, and the last two are said aloud. 75
            // is ours: an agent's own run did not end.
            let retry = Codes(vec![(1, 1), (4, 4), (6, 6), (75, 75), (124, 124), (126, 127), (129, 192)]);
            (Codes::of(&[0, 2]), retry)
        } else {
            (Codes::of(&[0]), Codes::default())
        };
        Policy {
            success: wishes.success.clone().unwrap_or(success),
            retry: wishes.retry.clone().unwrap_or(retry),
            backoff: wishes.backoff.unwrap_or(Pauses::DEFAULT),
            timeout_ms: wishes.timeout.map(milliseconds),
            kill_after_ms: wishes.kill_after.map_or(10_000, milliseconds),
            puppet: wishes.puppet,
            debounce: wishes.debounce,
            splay_ms: wishes.splay.map_or(0, milliseconds),
            metrics: wishes.metrics.clone(),
            on_finish: wishes.on_finish.clone(),
        }
    }

    /// Returns when the run of a kick may start; `who` tells this host's share of the splay.
    #[must_use]
    pub fn pace(&self, who: impl FnOnce() -> u64) -> Pace {
        let (quiet_ms, at_most_ms) = self.debounce.map_or((0, 0), |pauses| (pauses.min_ms, pauses.max_ms));
        Pace { quiet_ms, at_most_ms, splay_ms: if self.splay_ms == 0 { 0 } else { who() % self.splay_ms } }
    }

    /// Whether a run that ended like this is tried again.
    #[must_use]
    pub fn retries(&self, status: u8) -> bool {
        self.retry.contains(status) && !self.success.contains(status)
    }

    /// Returns the pause before the attempt after `failures` failures in a row, jittered.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(40);
        let step = self.backoff.min_ms.saturating_mul(1 << doublings).min(self.backoff.max_ms);
        toolkit::backoff::jittered(Duration::from_millis(step))
    }

    /// Returns the time between TERM and KILL.
    #[must_use]
    pub fn kill_after(&self) -> Duration {
        Duration::from_millis(self.kill_after_ms)
    }
}

/// Returns the pause before what `ts` itself could not start is tried again, whatever the job's policy: from 1 s to 10 min.
pub(crate) fn own_pause(failures: u32) -> Duration {
    let step = Duration::from_secs(1).saturating_mul(1 << failures.saturating_sub(1).min(10));
    toolkit::backoff::jittered(step.min(Duration::from_secs(600)))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_statuses_are_understood() {
        let codes = Codes::parse("0, 2,10-12,signal").expect("well formed");
        for code in [0, 2, 10, 11, 12, 137, 143] {
            assert!(codes.contains(code), "{code}");
        }
        for code in [1, 3, 9, 13, 127, 128, 255] {
            assert!(!codes.contains(code), "{code}");
        }
        for text in ["", "x", "256", "-1", "5-", "9-8", "1,,2"] {
            assert!(Codes::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        let policy = Policy::new(&Wishes { backoff: Pauses::parse("1s..5s").ok(), ..Wishes::default() });
        for (failures, step) in [(1, 1), (2, 2), (3, 4), (4, 5), (u32::MAX, 5)] {
            let pause = policy.pause(failures);
            let step = Duration::from_secs(step);
            assert!(pause >= step / 2 && pause <= step, "{failures}: {pause:?}");
        }
        for text in ["1s", "2s..1s", "0..1s", "..", "a..b"] {
            assert!(Pauses::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_host_has_its_place_in_the_splay() {
        let policy = Policy::new(&Wishes { splay: Some(Duration::from_secs(60)), ..Wishes::default() });
        assert_eq!(policy.pace(|| 61_500).splay_ms, 1_500);
        assert_eq!(Policy::new(&Wishes::default()).pace(|| 61_500), Pace::default());
    }

    #[test]
    fn puppet_says_what_is_tried_again() {
        let policy = Policy::new(&Wishes { puppet: true, ..Wishes::default() });
        for status in [1, 4, 6, 75, 124, 126, 127, 137, 143] {
            assert!(policy.retries(status), "{status}");
        }
        for status in [0, 2, 3, 125] {
            assert!(!policy.retries(status), "{status}");
        }
        let plain = Policy::new(&Wishes::default());
        assert!((0..=255).all(|status| !plain.retries(status)));
    }
}
