//! Real programs at both ends: each started by the test, in a directory of its own, on ports that
//! nobody else has, and ended with it.

mod brokers;
mod chromium;
mod curl;
mod mysql;
mod nginx;
mod openssl;
mod ports;
mod postgres;
mod socks;
mod ssh;
mod web;

pub use self::{
    brokers::Broker,
    chromium::chromium,
    curl::curl,
    mysql::mysql_server,
    nginx::Nginx,
    openssl::{Certificate, TlsServer, tls_client},
    postgres::postgres_server,
    socks::socks_server,
    ssh::SshServer,
    web::Web,
};
