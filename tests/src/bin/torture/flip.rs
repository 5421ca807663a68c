//! The kill switch, again and again while flows run: `mux relay off`, `mux relay auto`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use mux_tests::admin::AdminSocket;

/// A thread that switches; ends by `Drop`.
#[derive(Debug)]
pub(crate) struct Flips {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Flips {
    /// Switches each time that this has passed, off first.
    pub(crate) fn start(socket: Arc<AdminSocket>, period: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut flips = 0;
            while !until.load(Ordering::Relaxed) {
                thread::sleep(period);
                let word = if flips % 2 == 0 { "off" } else { "auto" };
                // A core that is too busy to answer in time follows all the same.
                match socket.post("/relay", word) {
                    Ok(_) => flips += 1,
                    Err(error) => eprintln!("torture: switching the relay: {error:#}"),
                }
            }
            flips
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it; how often it switched.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or(0)
    }
}

impl Drop for Flips {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
