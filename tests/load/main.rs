//! Tests that put the machine under full load. A binary of their own, so that no other test runs beside
//! them: cargo runs one test binary after the other.

mod wrk;
