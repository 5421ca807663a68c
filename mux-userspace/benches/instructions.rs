//! Instructions of matching and of the relay's decisions, which a busy machine does not change: `cargo bench -p mux-userspace --bench instructions`.
//! Wants valgrind (Debian's package) and `cargo install gungraun-runner --version 0.20.0`.
#![expect(unused_qualifications, missing_docs, reason = "of gungraun's macros")]

mod common;

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use mux::{
    Probe, Verdict,
    relay::{demotion::Before, evidence::Evidence, ledger::Ledger},
    route::Outcome,
    rules::Config,
};
use mux_common::KernelBook;

use self::common::{First, Kind};

#[library_benchmark]
#[bench::prefix_10(common::rules_file(Kind::Prefix, 10))]
#[bench::prefix_1000(common::rules_file(Kind::Prefix, 1000))]
#[bench::sni_1000(common::rules_file(Kind::Sni, 1000))]
fn parse(text: String) -> Config {
    common::parse(black_box(&text))
}

#[library_benchmark]
#[bench::prefix_10(common::last_of(Kind::Prefix, 10))]
#[bench::prefix_100(common::last_of(Kind::Prefix, 100))]
#[bench::prefix_1000(common::last_of(Kind::Prefix, 1000))]
#[bench::regex_10(common::last_of(Kind::Regex, 10))]
#[bench::regex_100(common::last_of(Kind::Regex, 100))]
#[bench::regex_1000(common::last_of(Kind::Regex, 1000))]
#[bench::sni_10(common::last_of(Kind::Sni, 10))]
#[bench::sni_1000(common::last_of(Kind::Sni, 1000))]
#[bench::host_10(common::last_of(Kind::Host, 10))]
#[bench::host_1000(common::last_of(Kind::Host, 1000))]
#[bench::path_prefix_10(common::last_of(Kind::PathPrefix, 10))]
#[bench::path_prefix_1000(common::last_of(Kind::PathPrefix, 1000))]
#[bench::client_10(common::last_of(Kind::Client, 10))]
#[bench::client_1000(common::last_of(Kind::Client, 1000))]
fn route((config, first): (Config, First)) -> Outcome {
    let outcome = common::decide(&config, &first);
    // Not what it costs to drop a configuration.
    std::mem::forget(config);
    outcome
}

fn chunk_of(name: &str) -> (Probe, Vec<u8>) {
    let found = common::probes().into_iter().find(|(probe, _)| probe.name() == name);
    found.unwrap_or_else(|| panic!("no probe {name}"))
}

#[library_benchmark]
#[bench::tls(chunk_of("tls"))]
#[bench::ssh(chunk_of("ssh"))]
#[bench::http1(chunk_of("http1"))]
#[bench::http2(chunk_of("http2"))]
#[bench::socks4(chunk_of("socks4"))]
#[bench::socks5(chunk_of("socks5"))]
fn probe((probe, chunk): (Probe, Vec<u8>)) -> Verdict<()> {
    probe.examine(black_box(&chunk))
}

#[library_benchmark]
fn exchange() -> bool {
    common::exchange(&mut black_box(Evidence::default()))
}

#[library_benchmark]
fn carry() -> (u64, u64) {
    common::carry(&mut black_box(Ledger::new(0, 1)), &mut KernelBook::default())
}

#[library_benchmark]
fn look() -> bool {
    common::look(&mut black_box(Before::default()), &mut [KernelBook::default(); 2])
}

library_benchmark_group!(name = matching, benchmarks = [parse, route, probe]);
library_benchmark_group!(name = handoff, benchmarks = [exchange, carry, look]);
main!(library_benchmark_groups = matching, handoff);
