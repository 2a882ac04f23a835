//! The clock that leases are measured by.
//!
//! `std::time::Instant` stands still while the machine sleeps; a lease does not. This clock goes on, and is
//! never set.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Returns the time since the machine was started, sleep included.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every supported kernel has this clock");
    Duration::from(time)
}
