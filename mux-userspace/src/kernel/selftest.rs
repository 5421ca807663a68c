//! Self-test.
