//! mux.
pub mod kernel;
pub mod sys;
