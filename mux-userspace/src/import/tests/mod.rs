//! Whole configurations.

pub(super) mod oracle;
