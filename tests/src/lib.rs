//! Harness (to come).

pub mod netns;
pub mod tun;
