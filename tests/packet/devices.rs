//! The programs on devices, beside other people's.

use std::process::Command;

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use mux::kernel::packet::{Mechanism, PacketKernel, PacketOptions};
use mux_common::packet::LOOPBACK;
use mux_tests::{Family, Need, need, netns};

use crate::{
    flow::Middle,
    place::{Kind, Place},
};

/// What tc and the kernel say of a device.
fn seen(place: &Place, device: &str) -> Result<String> {
    let name = place.relay().name();
    let mut text = String::new();
    for arguments in [
        vec!["-n", name, "qdisc", "show", "dev", device],
        vec!["-n", name, "filter", "show", "dev", device, "ingress"],
        vec!["-n", name, "filter", "show", "dev", device, "egress"],
    ] {
        let output = netns::run(Command::new("tc").args(arguments))?;
        text.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    // Fails before 6.6, where there is no tcx.
    for way in [TcAttachType::Ingress, TcAttachType::Egress] {
        let programs = place.relay().within(|| SchedClassifier::query_tcx(device, way))?;
        for program in programs.iter().flat_map(|(_, programs)| programs) {
            text.push_str(program.name_as_str().unwrap_or("?"));
            text.push('\n');
        }
    }
    Ok(text)
}

#[test]
fn devices_are_left_as_they_were() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Routed, Family::V4)?;
    let devices = ["lo", "down0", "up0"];
    let look = || devices.iter().map(|device| seen(&place, device)).collect::<Result<Vec<_>>>();
    let before = look()?;
    let middle = Middle::new(&place)?;
    let during = look()?;
    ensure!(
        before != during && during.iter().all(|text| text.contains("mux_packet")),
        "{during:?}"
    );
    ensure!(middle.kernel().attachments().len() == 3);
    drop(middle);
    let after = look()?;
    ensure!(before == after, "{after:?}");
    Ok(())
}

/// By clsact, as before 6.6: what others have there stays.
#[test]
fn a_clsact_qdisc_of_somebody_else_stays() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Routed, Family::V4)?;
    let name = place.relay().name();
    let tc = |arguments: &str| {
        netns::run(Command::new("tc").args(["-n", name]).args(arguments.split_whitespace()))
    };
    tc("qdisc add dev up0 clsact")?;
    tc("filter add dev up0 ingress protocol ip prio 7 u32 match u32 0 0")?;
    let devices = [LOOPBACK, place.relay().device("down0")?, place.relay().device("up0")?];
    let before = ["lo", "down0", "up0"].map(|device| seen(&place, device).ok());
    let kernel = place.relay().within(|| -> Result<_> {
        let mut kernel = PacketKernel::load(PacketOptions::new(16))?;
        kernel.attach_by(Mechanism::Clsact, &devices)?;
        Ok(kernel)
    })??;
    let during = seen(&place, "down0")?;
    ensure!(during.contains("clsact") && during.contains("mux_packet"), "{during}");
    // Detaching works on the device of the calling thread's namespace.
    place.relay().within(|| drop(kernel))?;
    let after = ["lo", "down0", "up0"].map(|device| seen(&place, device).ok());
    ensure!(before == after, "{after:?}");
    Ok(())
}

#[test]
fn a_device_of_an_unknown_kind_is_refused_by_name() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Routed, Family::V4)?;
    let error = place.relay().within(|| {
        let mut kernel = PacketKernel::load(PacketOptions::new(16)).expect("the programs");
        kernel.attach(&[4_000_000]).expect_err("there is no such device")
    })?;
    ensure!(error.to_string().contains("4000000"), "{error}");
    Ok(())
}
