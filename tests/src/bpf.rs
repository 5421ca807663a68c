//! What bpftool says of a daemon's program and maps.

use std::{os::fd::OwnedFd, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Daemon, process::run, run_ok};

/// A daemon's program and maps, by id.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Programs.
    pub programs: Vec<u32>,
    /// Maps.
    pub maps: Vec<u32>,
}

impl Objects {
    /// Those that a daemon holds.
    ///
    /// # Errors
    /// Not root; no bpftool.
    pub fn of(daemon: &Daemon) -> Result<Self> {
        let proc = daemon.proc();
        Ok(Self { programs: proc.fdinfo("prog_id")?, maps: proc.fdinfo("map_id")? })
    }

    /// Those of them that are still loaded.
    ///
    /// # Errors
    /// No bpftool.
    pub fn loaded(&self) -> Result<Self> {
        let there = |kind: &str, ids: &[u32]| -> Result<Vec<u32>> {
            let all = bpftool(&[kind, "show"])?;
            let all: Vec<u64> =
                all.as_array().into_iter().flatten().filter_map(|one| one["id"].as_u64()).collect();
            Ok(ids.iter().copied().filter(|id| all.contains(&u64::from(*id))).collect())
        };
        Ok(Self { programs: there("prog", &self.programs)?, maps: there("map", &self.maps)? })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty()
    }

    /// The program's id.
    ///
    /// # Errors
    /// There is not exactly one.
    pub fn program(&self) -> Result<u32> {
        ensure!(self.programs.len() == 1, "programs {:?}, not one", self.programs);
        Ok(self.programs[0])
    }

    /// The id of the map with this name.
    ///
    /// # Errors
    /// There is none.
    pub fn map(&self, name: &str) -> Result<u32> {
        for &id in &self.maps {
            if bpftool(&["map", "show", "id", &id.to_string()])?["name"] == name {
                return Ok(id);
            }
        }
        Err(anyhow::anyhow!("no map {name} among {:?}", self.maps))
    }
}

/// Entries of a hash or socket map.
///
/// # Errors
/// There is no such map.
pub fn entries(map: u32) -> Result<usize> {
    // Values of a sockmap cannot be read; the keys that have one are there all the same.
    let mut count = 0;
    let mut key: Option<Vec<String>> = None;
    loop {
        let id = map.to_string();
        let mut arguments = vec!["-j", "map", "getnext", "id", &id];
        if let Some(key) = &key {
            arguments.push("key");
            arguments.extend(key.iter().map(String::as_str));
        }
        let output = run(Command::new("bpftool").args(&arguments))?;
        if !output.status.success() {
            return Ok(count);
        }
        count += 1;
        let next: Value = serde_json::from_slice(&output.stdout)?;
        key = Some(
            next["next_key"]
                .as_array()
                .context("a key")?
                .iter()
                .filter_map(|byte| byte.as_str().map(str::to_owned))
                .collect(),
        );
    }
}

/// Runs of a program, while [`Stats`] are on, and how long they took, nanoseconds.
///
/// # Errors
/// There is no such program.
pub fn runs(program: u32) -> Result<(u64, u64)> {
    let shown = bpftool(&["prog", "show", "id", &program.to_string()])?;
    let number = |key: &str| shown[key].as_u64().unwrap_or(0);
    Ok((number("run_cnt"), number("run_time_ns")))
}

/// Bytes of a program as the verifier left it.
///
/// # Errors
/// There is no such program.
pub fn translated_size(program: u32) -> Result<u64> {
    let shown = bpftool(&["prog", "show", "id", &program.to_string()])?;
    shown["bytes_xlated"].as_u64().context("no bytes_xlated")
}

/// The sum over all CPUs of a `u64` at this offset of a per-CPU array's first value.
///
/// # Errors
/// There is no such map, or its values are shorter.
pub fn sum_of(map: u32, offset: usize) -> Result<u64> {
    let shown = bpftool(&["map", "lookup", "id", &map.to_string(), "key", "0", "0", "0", "0"])?;
    let values = shown["values"].as_array().context("no value a CPU")?;
    values.iter().try_fold(0, |sum, value| {
        let bytes = bytes_of(&value["value"])?;
        let bytes = bytes.get(offset..offset + 8).context("a short value")?;
        Ok(sum + u64::from_le_bytes(bytes.try_into()?))
    })
}

/// Runs `bpftool -j`.
///
/// # Errors
/// It fails, or there is none.
pub fn bpftool(arguments: &[&str]) -> Result<Value> {
    let text = run_ok(Command::new("bpftool").arg("-j").args(arguments))?;
    serde_json::from_str(&text).context("bpftool's JSON")
}

/// Has the kernel count runs of programs for as long as it lives (`BPF_ENABLE_STATS`, ≥ 5.8), whoever
/// else does or does not; unlike the sysctl there is nothing to restore.
#[derive(Debug)]
pub struct Stats(#[expect(dead_code, reason = "held for its Drop")] OwnedFd);

impl Stats {
    /// Switches it on.
    ///
    /// # Errors
    /// Not root.
    pub fn enable() -> Result<Self> {
        let fd = aya::sys::enable_stats(aya::sys::Stats::RunTime)
            .context("counting the runs of programs")?;
        Ok(Self(fd))
    }
}

/// Changes the value of an array's entry, byte by byte as it is stored.
///
/// # Errors
/// There is no such map or entry.
pub fn change(map: u32, index: u32, change: impl FnOnce(&mut [u8])) -> Result<()> {
    let map = map.to_string();
    let key = index.to_ne_bytes().map(|byte| byte.to_string());
    let mut arguments = vec!["map", "lookup", "id", &map, "key"];
    arguments.extend(key.iter().map(String::as_str));
    let shown = bpftool(&arguments)?;
    let mut value = bytes_of(&shown["value"])?;
    change(&mut value);
    let value: Vec<_> = value.iter().map(u8::to_string).collect();
    arguments[1] = "update";
    arguments.push("value");
    arguments.extend(value.iter().map(String::as_str));
    run_ok(Command::new("bpftool").args(&arguments))?;
    Ok(())
}

/// A value's bytes, which bpftool prints in hex.
fn bytes_of(value: &Value) -> Result<Vec<u8>> {
    let byte = |byte: &Value| {
        let byte = byte.as_str().context("a byte")?.trim_start_matches("0x");
        Ok(u8::from_str_radix(byte, 16)?)
    };
    value.as_array().context("no bytes")?.iter().map(byte).collect()
}
