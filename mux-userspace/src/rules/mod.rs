//! Rules.
pub mod config;
