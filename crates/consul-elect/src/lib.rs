//! Elect one node for a piece of work
