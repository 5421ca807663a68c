//! Room on the disk: a build for all tests takes some GiB, and what fails for want of it does so in
//! many words.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::sh;

const GIB: f64 = (1_u64 << 30) as f64;
/// What the steps after the unit tests take: packages, two Debians in virtual machines, documentation.
const WANTED: f64 = 4.0;

/// GiB free where cargo builds; `None`: the file system does not say.
pub(crate) fn free() -> Option<f64> {
    // Built into before the first step: xtask itself is there.
    let stat = rustix::fs::statvfs(sh::target_dir()).ok()?;
    Some(stat.f_bavail as f64 * stat.f_frsize as f64 / GIB)
}

/// Removes the programs of the unit tests, which are done, if there is little room. cargo makes them
/// again when they are wanted.
pub(crate) fn make() {
    if free().is_none_or(|free| free >= WANTED) {
        return;
    }
    let mut bytes = 0;
    for (path, size) in programs(&sh::target_dir().join("debug/deps")) {
        if fs::remove_file(path).is_ok() {
            bytes += size;
        }
    }
    sh::status(format!(
        "little room: removed {:.1} GiB of unit tests' programs",
        bytes as f64 / GIB
    ));
}

/// Executable files without an extension: neither libraries nor macros.
fn programs(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none() && sh::is_executable(path))
        .filter_map(|path| fs::metadata(&path).ok().map(|meta| (path, meta.len())))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_programs_are_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, mode) in
            [("mux-1", 0o755), ("libmux-1.rlib", 0o644), ("mux-1.d", 0o644), ("libm.so", 0o755)]
        {
            let path = directory.path().join(name);
            fs::write(&path, "12345").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        }
        assert_eq!(programs(directory.path()), [(directory.path().join("mux-1"), 5)]);
        assert!(programs(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn there_is_some_room() {
        assert!(free().is_some_and(|free| free > 0.0));
    }
}
