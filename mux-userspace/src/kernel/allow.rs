//! Allow list.
