//! Real programs at both ends: each started by the test, in a directory of its own, on ports that
//! nobody else has, and ended with it.

mod curl;
mod nginx;
mod openssl;
mod ports;
mod socks;
mod ssh;
mod web;

pub use self::{
    curl::curl,
    nginx::Nginx,
    openssl::{Certificate, TlsServer, tls_client},
    socks::socks_server,
    ssh::SshServer,
    web::Web,
};
