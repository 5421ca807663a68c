//! Accounting: one record a flow, the access log, counters, totals. Nothing here may block a core.

pub mod access;
pub mod counters;
pub mod hooks;
pub mod live;
pub mod record;
pub mod totals;

pub use self::{
    access::AccessLog,
    counters::{Counter, Counters},
    hooks::{Flow, Hooks},
    live::{Live, Stage},
    record::Record,
    totals::{Report, Totals},
};
