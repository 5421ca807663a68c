//! Accounting: one record a flow, the access log, counters. Nothing here may block a core.

pub mod access;
pub mod counters;
pub mod record;

pub use self::{
    access::AccessLog,
    counters::{Counter, Counters},
    record::Record,
};
