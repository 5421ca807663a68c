//! What serves.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::oneshot;

use crate::{rules::config::ListenAddress, server::Running, shared::Shared};

/// A multiplexer that serves. It goes on when this is dropped, to the end of the process;
/// [`Serving::stop`] ends it before.
#[derive(Debug)]
pub struct Serving {
    pub(super) shared: Arc<Shared>,
    pub(super) addresses: Vec<ListenAddress>,
    pub(super) running: Running,
}

impl Serving {
    /// Where it listens by TCP, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) | ListenAddress::Systemd(_) => None,
        })
    }

    /// What happened so far, by the counters' stable names.
    #[must_use]
    pub fn counters(&self) -> &crate::account::Counters {
        &self.shared.counters
    }

    /// Why the kernel relay is not in force; `None`: it is.
    #[must_use]
    pub fn relay_unavailable(&self) -> Option<&str> {
        self.shared.unavailable.as_deref()
    }

    /// Stops accepting, lets flows end until the drain timeout, resets what is left; returns
    /// when everything is closed.
    pub async fn stop(self) {
        let (sender, receiver) = oneshot::channel();
        let waiting = std::thread::Builder::new().name("mux-stop".into()).spawn(move || {
            self.stop_blocking();
            let _ = sender.send(());
        });
        if waiting.is_ok() {
            let _ = receiver.await;
        }
    }

    /// [`Serving::stop`] for programs without an executor.
    pub fn stop_blocking(self) {
        self.shared.drain.cancel();
        self.running.remove_files();
        self.running.join();
    }

    /// Resets all flows; returns when everything is closed.
    pub fn abort_blocking(self) {
        self.shared.drain.cancel();
        self.shared.abort.cancel();
        self.running.remove_files();
        self.running.join();
    }
}
