//! Real programs at both ends: each started by the test, in a directory of its own, on ports that
//! nobody else has, and ended with it.

mod brokers;
mod chromium;
mod curl;
mod haproxy;
mod mysql;
mod nginx;
mod nginx_proxy;
mod openssl;
mod ports;
mod postgres;
mod prometheus;
mod socks;
mod ssh;
mod web;

pub use self::{
    brokers::Broker,
    chromium::chromium,
    curl::curl,
    haproxy::Haproxy,
    mysql::mysql_server,
    nginx::Nginx,
    nginx_proxy::NginxProxy,
    openssl::{Certificate, TlsServer, tls_client, tls_client_with},
    ports::free_port,
    postgres::postgres_server,
    prometheus::{Prometheus, promtool},
    socks::socks_server,
    ssh::SshServer,
    web::Web,
};
