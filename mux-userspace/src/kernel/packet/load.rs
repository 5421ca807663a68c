//! Loading the tc programs: aya's part of it.

use std::{os::fd::AsFd, path::Path, sync::Arc};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, PerCpuArray, RingBuf},
    programs::SchedClassifier,
};
use mux_common::{
    GLOBAL_OFF_COPIED_SEQ, GLOBAL_OFF_SND_UNA, GLOBAL_OFF_WRITE_SEQ, MAP_BOOKS, MAP_EVENTS,
    MAP_KEEP, MAP_SLOTS, MAP_SOCKS,
    packet::{
        GLOBAL_OFF_BACKLOG_LEN, GLOBAL_OFF_LOCK_OWNED, GLOBAL_OFF_OUT_OF_ORDER, GLOBAL_OFF_RCV_NXT,
        GLOBAL_OFF_TSOFFSET, GLOBAL_QUIET, MAP_FLOWS4, MAP_FLOWS6, MAP_OFFERS, MAP_PACKET_EVENTS,
        MAP_PACKET_STATS, MAP_PACKETS, PROG_LOOK, PROG_LOOP, PROG_PACKET, PROG_PACKET_L3,
        PROG_RESET, PROG_RESET_L3, PacketStats, packet_event,
    },
};

use super::{
    PacketError, PacketEvents, PacketKernel, PacketOptions, PacketStatsReader, Records, Report,
    What, duplicate, io_error, map_error,
};
use crate::kernel::{books, btf, object};

/// The programs, in the order of loading.
const PROGRAMS: [&str; 6] =
    [PROG_LOOK, PROG_PACKET, PROG_PACKET_L3, PROG_RESET, PROG_LOOP, PROG_RESET_L3];
/// The least that a ring may be: a page.
const SMALLEST_RING: u32 = 4096;

pub(super) fn load(options: PacketOptions) -> Result<PacketKernel, PacketError> {
    let PacketOptions { flows, quiet } = options;
    let offsets = btf::offsets(Path::new(btf::VMLINUX))?;
    let packet = btf::packet_offsets(Path::new(btf::VMLINUX))?;
    let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
    let mut ebpf = EbpfLoader::new()
        .override_global(GLOBAL_OFF_WRITE_SEQ, &offsets.write_seq, true)
        .override_global(GLOBAL_OFF_SND_UNA, &offsets.snd_una, true)
        .override_global(GLOBAL_OFF_COPIED_SEQ, &offsets.copied_seq, true)
        .override_global(GLOBAL_OFF_RCV_NXT, &packet.rcv_nxt, true)
        .override_global(GLOBAL_OFF_TSOFFSET, &packet.tsoffset, true)
        .override_global(GLOBAL_OFF_OUT_OF_ORDER, &packet.out_of_order, true)
        .override_global(GLOBAL_OFF_LOCK_OWNED, &packet.lock_owned, true)
        .override_global(GLOBAL_OFF_BACKLOG_LEN, &packet.backlog_len, true)
        .override_global(GLOBAL_QUIET, &quiet, true)
        .override_global(aya_log::LEVEL, &0u8, true)
        .map_max_entries(MAP_FLOWS4, 2 * flows)
        .map_max_entries(MAP_FLOWS6, 2 * flows)
        .map_max_entries(MAP_OFFERS, flows)
        .map_max_entries(MAP_PACKETS, 2 * flows)
        // The verdict's maps are in the same object. This load does not use them.
        .map_max_entries(MAP_SOCKS, 1)
        .map_max_entries(MAP_KEEP, 1)
        .map_max_entries(MAP_SLOTS, 1)
        .map_max_entries(MAP_BOOKS, 1)
        .map_max_entries(MAP_EVENTS, SMALLEST_RING)
        .load(object::OBJECT)
        .map_err(|error| PacketError::Load(Box::new(error)))?;

    let records = match ebpf.map(MAP_PACKETS) {
        Some(Map::Array(data)) => {
            Records::map(data.fd().as_fd(), flows).map_err(io_error("mapping the records"))?
        }
        _ => return Err(PacketError::Missing(MAP_PACKETS)),
    };
    for name in PROGRAMS {
        let program: &mut SchedClassifier = ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(PacketError::Missing(name))?;
        program.load().map_err(|source| PacketError::Program { name, source: Box::new(source) })?;
    }
    Ok(PacketKernel { attachments: Vec::new(), ebpf, records: Arc::clone(&records), flows })
}

pub(super) fn take_events(ebpf: &mut Ebpf) -> Result<PacketEvents, PacketError> {
    let map = ebpf.take_map(MAP_PACKET_EVENTS).ok_or(PacketError::Missing(MAP_PACKET_EVENTS))?;
    let ring = RingBuf::try_from(map).map_err(map_error("opening the event ring"))?;
    Ok(PacketEvents { ring })
}

pub(super) fn stats_reader(ebpf: &Ebpf) -> Result<PacketStatsReader, PacketError> {
    let Some(Map::PerCpuArray(data)) = ebpf.map(MAP_PACKET_STATS) else {
        return Err(PacketError::Missing(MAP_PACKET_STATS));
    };
    let fd = duplicate(data.fd().as_fd())?;
    let data = MapData::from_fd(fd).map_err(map_error("opening the counters"))?;
    PerCpuArray::<MapData, PacketStats>::try_from(Map::PerCpuArray(data))
        .map(PacketStatsReader)
        .map_err(map_error("opening the counters"))
}

/// One record of the ring; `None`: it is not of this version, so it is not ours to read.
pub(super) fn decode(bytes: &[u8]) -> Option<Report> {
    let cookie = bytes.get(0..8)?.try_into().ok().map(u64::from_ne_bytes)?;
    let record = bytes.get(8..12)?.try_into().ok().map(u32::from_ne_bytes)?;
    let what = match bytes.get(12..16)?.try_into().ok().map(u32::from_ne_bytes)? {
        packet_event::ON => What::On,
        packet_event::ENDED => What::Ended,
        packet_event::RESET => What::Reset,
        packet_event::TOO_BIG => What::TooBig,
        _ => return None,
    };
    let (pair, way) = books::way_of(record);
    Some(Report { cookie, pair, way, what })
}
