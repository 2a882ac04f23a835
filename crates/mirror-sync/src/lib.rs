//! Mirror packages and git as signed snapshots
