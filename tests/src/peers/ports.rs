//! Ports for programs that cannot be told to take any.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result};

/// Below the ports that the kernel gives to those who ask for any (32768 and up), so that none of
/// the tests' connections takes one between our look and the program's.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that is free, and that this process has not handed out lately. Another
/// process can take it all the same: a program that fails to start wants another one.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    let width = RANGE.end - RANGE.start;
    (0..width)
        .map(|_| {
            // Two test runs on one machine begin at different places.
            let turn = NEXT.fetch_add(1, Ordering::Relaxed);
            let start = (std::process::id() % u32::from(width)) as u16;
            RANGE.start + (start.wrapping_add(turn.wrapping_mul(7))) % width
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port")
}
