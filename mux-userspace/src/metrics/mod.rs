//! `/metrics`: what there is to know, as OpenMetrics text.
//!
//! A page is gathered anew for each request, from the cores' reports and the shared state, so that
//! nothing is kept twice and a configuration that is gone leaves nothing behind. That is also why
//! there is no registry here. The format is OpenMetrics 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! | file | what it is |
//! |---|---|
//! | `families` | every family: name, type, unit, labels, meaning |
//! | `counters` | which family a [`crate::account::Counter`] is in |
//! | `page` | the text |
//! | `gather` | the values |
//! | `process` | the process's own |

mod counters;
mod families;
mod gather;
mod page;
pub(crate) mod process;

#[cfg(test)]
mod tests;

pub(crate) use self::{
    gather::page,
    page::{CONTENT_TYPE, Memory},
};
