//! The committed eBPF object is the one that `mux-common` describes.

use std::{collections::BTreeMap, fs, mem::size_of};

use anyhow::{Context, Result, ensure};
use mux_common::{
    DEFAULT_FLOWS, Direction, EVENTS_SIZE, GLOBAL_OFF_BYTES_ACKED, GLOBAL_OFF_COPIED_SEQ,
    GLOBAL_OFF_MSS_CACHE, GLOBAL_OFF_SND_UNA, GLOBAL_OFF_SNDBUF, GLOBAL_OFF_WMEM_QUEUED,
    GLOBAL_OFF_WRITE_SEQ, MAP_BOOKS, MAP_EVENTS, MAP_KEEP, MAP_SLOTS, MAP_SOCKS, MAP_STATS,
    PROG_VERDICT, Stats, packet,
};
use mux_tests::repository;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// include/uapi/linux/bpf.h, `enum bpf_map_type`.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const SOCKMAP: u32 = 15;
const RINGBUF: u32 = 27;
/// `BPF_F_NO_PREALLOC`, `BPF_F_MMAPABLE`.
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

/// Words of aya's `bpf_map_def`: type, key size, value size, entries, flags, id, pinning.
const WORDS: usize = 7;

/// A map's definition: type, key size, value size, entries, flags.
type Definition = [u32; 5];

fn object() -> Result<Vec<u8>> {
    let path = repository().join("mux-ebpf/prebuilt/mux.bpf.o");
    fs::read(&path).with_context(|| path.display().to_string())
}

/// The definitions in section `maps`, by name.
fn definitions(file: &object::File<'_>) -> Result<BTreeMap<String, Definition>> {
    let section = file.section_by_name("maps").context("no section `maps`")?;
    let data = section.data()?;
    let mut found = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.section_index() == Some(section.index())) {
        if symbol.kind() != SymbolKind::Data {
            continue;
        }
        let name = symbol.name()?.to_owned();
        ensure!(symbol.size() == 4 * WORDS as u64, "{name}: {} bytes", symbol.size());
        let start = symbol.address() as usize;
        let bytes = data.get(start..start + 4 * WORDS).with_context(|| name.clone())?;
        let words: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        found.insert(name, [words[0], words[1], words[2], words[3], words[4]]);
    }
    Ok(found)
}

#[test]
fn every_map_is_there_with_the_sizes_of_its_types() -> Result<()> {
    let bytes = object()?;
    let file = object::File::parse(&*bytes)?;
    let found = definitions(&file)?;
    let size = |size: usize| size as u32;
    let (key, cookie, slots) = (size(size_of::<u32>()), size(size_of::<u64>()), 2 * DEFAULT_FLOWS);
    let expected: [(&str, Definition); 6] = [
        (MAP_SOCKS, [SOCKMAP, key, key, slots, 0]),
        (MAP_KEEP, [SOCKMAP, key, key, slots, 0]),
        (MAP_SLOTS, [HASH, cookie, key, slots, NO_PREALLOC]),
        (MAP_BOOKS, [ARRAY, key, size(size_of::<Direction>()), slots, MMAPABLE]),
        (MAP_EVENTS, [RINGBUF, 0, 0, EVENTS_SIZE, 0]),
        (MAP_STATS, [PERCPU_ARRAY, key, size(size_of::<Stats>()), 1, 0]),
    ];
    for (name, definition) in expected {
        ensure!(found.get(name) == Some(&definition), "{name}: {:?}", found.get(name));
    }
    Ok(())
}

#[test]
fn every_map_of_the_packet_relay_is_there_with_the_sizes_of_its_types() -> Result<()> {
    let bytes = object()?;
    let file = object::File::parse(&*bytes)?;
    let found = definitions(&file)?;
    let size = |size: usize| size as u32;
    let (key, flows) = (size(size_of::<u32>()), DEFAULT_FLOWS);
    let translation = size(size_of::<packet::Translation>());
    let expected: [(&str, Definition); 7] = [
        (
            packet::MAP_FLOWS4,
            [HASH, size(size_of::<packet::Tuple4>()), key, 2 * flows, NO_PREALLOC],
        ),
        (
            packet::MAP_FLOWS6,
            [HASH, size(size_of::<packet::Tuple6>()), key, 2 * flows, NO_PREALLOC],
        ),
        (packet::MAP_OFFERS, [HASH, key, key, flows, NO_PREALLOC]),
        (packet::MAP_PACKETS, [ARRAY, key, translation, 2 * flows, MMAPABLE]),
        (packet::MAP_PACKET_EVENTS, [RINGBUF, 0, 0, packet::PACKET_EVENTS_SIZE, 0]),
        (
            packet::MAP_PACKET_STATS,
            [PERCPU_ARRAY, key, size(size_of::<packet::PacketStats>()), 1, 0],
        ),
        (packet::MAP_SCRATCH, [PERCPU_ARRAY, key, size(size_of::<packet::Scratch>()), 1, 0]),
    ];
    for (name, definition) in expected {
        // The kernel keeps 15 characters of a name, and bpftool shows those.
        ensure!(name.len() < 16, "{name} is too long");
        ensure!(found.get(name) == Some(&definition), "{name}: {:?}", found.get(name));
    }
    Ok(())
}

#[test]
fn the_programs_of_the_packet_relay_are_there_as_classifiers() -> Result<()> {
    let bytes = object()?;
    let file = object::File::parse(&*bytes)?;
    for name in [
        packet::PROG_PACKET,
        packet::PROG_PACKET_L3,
        packet::PROG_RESET,
        packet::PROG_LOOP,
        packet::PROG_RESET_L3,
        packet::PROG_LOOK,
    ] {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
        let symbol = symbol.with_context(|| format!("no {name}"))?;
        let section = file.section_by_index(symbol.section_index().context("no section")?)?;
        ensure!(section.name()? == "classifier", "{name} in {:?}", section.name());
    }
    Ok(())
}

#[test]
fn the_program_is_there_as_a_stream_verdict() -> Result<()> {
    let bytes = object()?;
    let file = object::File::parse(&*bytes)?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(PROG_VERDICT));
    let symbol = symbol.with_context(|| format!("no {PROG_VERDICT}"))?;
    ensure!(symbol.kind() == SymbolKind::Text && symbol.size() > 0, "{symbol:?}");
    let section = file.section_by_index(symbol.section_index().context("no section")?)?;
    ensure!(section.name()?.starts_with("sk_skb/stream_verdict"), "{:?}", section.name());
    Ok(())
}

#[test]
fn every_load_time_constant_is_a_read_only_u32() -> Result<()> {
    let bytes = object()?;
    let file = object::File::parse(&*bytes)?;
    for name in [
        GLOBAL_OFF_BYTES_ACKED,
        GLOBAL_OFF_COPIED_SEQ,
        GLOBAL_OFF_MSS_CACHE,
        GLOBAL_OFF_SND_UNA,
        GLOBAL_OFF_SNDBUF,
        GLOBAL_OFF_WMEM_QUEUED,
        GLOBAL_OFF_WRITE_SEQ,
        packet::GLOBAL_OFF_RCV_NXT,
        packet::GLOBAL_OFF_TSOFFSET,
        packet::GLOBAL_OFF_OUT_OF_ORDER,
        packet::GLOBAL_OFF_LOCK_OWNED,
        packet::GLOBAL_OFF_BACKLOG_LEN,
    ] {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
        let symbol = symbol.with_context(|| format!("no {name}"))?;
        ensure!(symbol.size() == size_of::<u32>() as u64, "{name}: {} bytes", symbol.size());
        let section = file.section_by_index(symbol.section_index().context("no section")?)?;
        ensure!(section.name()?.starts_with(".rodata"), "{name} in {:?}", section.name());
    }
    Ok(())
}

#[test]
fn the_licence_lets_the_kernel_give_it_its_helpers() -> Result<()> {
    let bytes = object()?;
    let file = object::File::parse(&*bytes)?;
    let section = file.section_by_name("license").context("no license")?;
    ensure!(section.data()? == b"Dual MIT/GPL\0", "{:?}", section.data());
    Ok(())
}
