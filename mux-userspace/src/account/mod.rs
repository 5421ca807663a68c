//! Accounting: one record a flow, the access log, counters. Nothing here may block a core.

pub mod access;
pub mod counters;
pub mod hooks;
pub mod record;

pub use self::{
    access::AccessLog,
    counters::{Counter, Counters},
    hooks::{Flow, Hooks},
    record::Record,
};
