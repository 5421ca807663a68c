//! Harness (to come).

pub mod netns;
pub mod sys;
pub mod tun;
