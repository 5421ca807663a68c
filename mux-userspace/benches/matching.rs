//! Times of matching: `cargo bench -p mux-userspace --bench matching`. A connection's first chunk costs
//! what is measured here once, and a reload what parsing costs.

mod common;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use mux::relay::{demotion::Before, evidence::Evidence, ledger::Ledger};
use mux_common::KernelBook;

use self::common::{COUNTS, Kind};

/// Parsing and compiling a rules file.
fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    // Of a thousand patterns it takes a tenth of a second.
    group.sample_size(10);
    for kind in Kind::ALL {
        for count in COUNTS {
            let text = common::rules_file(kind, count);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_with_input(BenchmarkId::new(kind.name(), count), &text, |bencher, text| {
                bencher.iter(|| common::parse(black_box(text)));
            });
        }
    }
    group.finish();
}

/// The decision for a chunk that the last rule takes.
fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for kind in Kind::ALL {
        for count in COUNTS {
            let (config, first) = common::last_of(kind, count);
            group.bench_function(BenchmarkId::new(kind.name(), count), |bencher| {
                bencher.iter(|| common::decide(&config, &first));
            });
        }
    }
    group.finish();
}

/// A probe's verdict, and what it tells, of a client's first chunk.
fn probes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("probe");
    for (probe, chunk) in common::probes() {
        group.throughput(Throughput::Bytes(chunk.len() as u64));
        group.bench_function(BenchmarkId::new("verdict", probe.name()), |bencher| {
            bencher.iter(|| probe.examine(black_box(&chunk)));
        });
        group.bench_function(BenchmarkId::new("details", probe.name()), |bencher| {
            bencher.iter(|| probe.details(black_box(&chunk)));
        });
    }
    group.finish();
}

/// What the relay thinks of an exchange, of a message that the kernel passed, and at each of the timer's looks.
fn handoff(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handoff");
    let mut evidence = Evidence::default();
    group.bench_function("exchange", |bencher| {
        bencher.iter(|| common::exchange(&mut evidence));
    });
    let (mut ledger, mut book) = (Ledger::new(0, 1), KernelBook::default());
    group.bench_function("carry", |bencher| {
        bencher.iter(|| common::carry(&mut ledger, &mut book));
    });
    let (mut before, mut books) = (Before::default(), [KernelBook::default(); 2]);
    group.bench_function("look", |bencher| {
        bencher.iter(|| common::look(&mut before, &mut books));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = parse, route, probes, handoff
}
criterion_main!(benches);
