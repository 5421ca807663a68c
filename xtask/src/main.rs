//! `cargo xtask`: mux's build, run and test commands.
fn main() {}
