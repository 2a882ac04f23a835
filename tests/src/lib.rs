//! Tests that need more than one tool; see `tests/`.
