//! Harness (to come).

pub mod netns;
