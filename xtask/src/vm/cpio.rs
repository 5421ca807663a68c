//! A writer of the archives that the kernel unpacks as its first file system: cpio's "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

/// An archive in the making.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const REGULAR: u32 = 0o100_000;
const SYMBOLIC_LINK: u32 = 0o120_777;

impl Archive {
    /// Adds a directory and those above it. Paths have no `/` in front.
    pub(crate) fn directory(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let directory = &path[..end];
            if !directory.is_empty() && self.directories.insert(directory.to_owned()) {
                self.entry(directory, DIRECTORY, &[], (0, 0));
            }
        }
    }

    /// Adds a file with the given permissions, and the directories above it.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.above(path);
        self.entry(path, REGULAR | permissions, content, (0, 0));
    }

    /// Adds a character device, and the directories above it.
    pub(crate) fn device(&mut self, path: &str, number: (u32, u32)) {
        self.above(path);
        self.entry(path, CHARACTER_DEVICE, &[], number);
    }

    /// Adds everything below a directory, as root's.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn tree(&mut self, root: &Path) -> io::Result<()> {
        self.below(root, "")
    }

    fn below(&mut self, root: &Path, directory: &str) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(root.join(directory))?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let metadata = entry.metadata()?;
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                if self.directories.insert(path.clone()) {
                    self.entry(&path, (DIRECTORY & !0o7777) | mode, &[], (0, 0));
                }
                self.below(root, &path)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.entry(&path, SYMBOLIC_LINK, target.as_os_str().as_bytes(), (0, 0));
            } else if metadata.is_file() {
                self.entry(&path, REGULAR | mode, &fs::read(entry.path())?, (0, 0));
            }
        }
        Ok(())
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some((directory, _)) = path.rsplit_once('/') {
            self.directory(directory);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries += 1;
        let name_length = path.len() as u32 + 1;
        let fields = [
            self.entries, // inode: different, or the kernel makes hard links
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            content.len() as u32,
            0, // device that it is on
            0,
            device.0,
            device.1,
            name_length,
            0, // checksum: not in this format
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, mode, content of each entry.
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        while at < archive.len() {
            let header = String::from_utf8_lossy(&archive[at..at + 110]).into_owned();
            assert!(header.starts_with("070701"), "{header}");
            let field = |index: usize| {
                let start = 6 + 8 * index;
                usize::from_str_radix(&header[start..start + 8], 16).unwrap_or(usize::MAX)
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = &archive[at + 110..at + 110 + name_size - 1];
            let content = (at + 110 + name_size).next_multiple_of(4);
            entries.push((
                String::from_utf8_lossy(name).into_owned(),
                mode as u32,
                archive[content..content + size].to_vec(),
            ));
            at = (content + size).next_multiple_of(4);
        }
        entries
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file("a/b/one", 0o755, b"12345");
        archive.file("a/two", 0o644, b"");
        archive.device("dev/console", (5, 1));
        let entries = read(&archive.finish());
        let paths: Vec<&str> = entries.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/one", "a/two", "dev", "dev/console", "TRAILER!!!"]);
        assert_eq!(entries[2], ("a/b/one".to_owned(), 0o100_755, b"12345".to_vec()));
        assert_eq!(entries[5].1, 0o020_600);
    }

    #[test]
    fn every_length_is_aligned() {
        for length in 0..9 {
            let mut archive = Archive::default();
            archive.file(&"n".repeat(length + 1), 0o600, &vec![b'x'; length]);
            assert_eq!(read(&archive.finish())[0].2.len(), length);
        }
    }
}
