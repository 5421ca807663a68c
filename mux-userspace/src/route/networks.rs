//! Lists of networks: written in the rules, or read from files that may change meanwhile.

use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustix::fs::OFlags;
use thiserror::Error;

use super::EmptyMatcher;

/// Largest file of networks, bytes: about two million lines.
pub const MAX_FILE: u64 = 64 << 20;

/// Networks; at least one, or at least one file of them.
#[derive(Clone, Debug)]
pub struct Networks {
    written: Box<[IpNet]>,
    ranges: Ranges,
    files: Box<[Arc<NetworkFile>]>,
}

impl Networks {
    /// # Errors
    /// [`EmptyMatcher`] when there are none.
    pub fn new(networks: impl Into<Box<[IpNet]>>) -> Result<Self, EmptyMatcher> {
        Self::with_files(networks, [])
    }

    /// Networks, and files of more.
    ///
    /// # Errors
    /// [`EmptyMatcher`] when there are neither. A file may have no network in it.
    pub fn with_files(
        networks: impl Into<Box<[IpNet]>>,
        files: impl Into<Box<[Arc<NetworkFile>]>>,
    ) -> Result<Self, EmptyMatcher> {
        let (written, files) = (networks.into(), files.into());
        if written.is_empty() && files.is_empty() {
            return Err(EmptyMatcher);
        }
        let ranges = written.iter().copied().collect();
        Ok(Self { written, ranges, files })
    }

    /// Whether the address is in one of them. An IPv4 client of a dual-stack listener
    /// (`::ffff:10.0.0.1`) is an IPv4 client.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.contains(address)
            || self.files.iter().any(|file| file.ranges.load().contains(address))
    }

    /// The first of them that the address is in, as rules files write it: a network, or a file.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        let written = self.written.iter().find(|network| network.contains(&address));
        let file = || self.files.iter().find(|file| file.ranges.load().contains(address));
        written.map(ToString::to_string).or_else(|| file().map(|file| file.to_string()))
    }

    /// Those that the rules file has in so many words.
    #[must_use]
    pub fn written(&self) -> &[IpNet] {
        &self.written
    }

    /// The files of others.
    #[must_use]
    pub fn files(&self) -> &[Arc<NetworkFile>] {
        &self.files
    }

    /// Whether every address of `other` is, visibly, in one of these.
    pub(super) fn includes(&self, other: &Self) -> bool {
        let has_file = |file: &Arc<NetworkFile>| self.files.iter().any(|mine| mine.is(file));
        self.ranges.includes(&other.ranges) && other.files.iter().all(has_file)
    }
}

impl PartialEq for Networks {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
            && self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|(mine, theirs)| mine.is(theirs))
    }
}

/// Sorted, disjoint ranges of addresses, first and last included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl FromIterator<IpNet> for Ranges {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => {
                    v4.push((network.network().to_bits(), network.broadcast().to_bits()));
                }
                IpNet::V6(network) => {
                    v6.push((network.network().to_bits(), network.broadcast().to_bits()));
                }
            }
        }
        Self { v4: merge(v4), v6: merge(v6) }
    }
}

/// Sorts, and joins what overlaps.
fn merge<T: Copy + Ord>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

/// The range that an address is in.
fn range_of<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> Option<(T, T)> {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    let range = *ranges.get(after.checked_sub(1)?)?;
    (address <= range.1).then_some(range)
}

impl Ranges {
    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => range_of(&self.v4, address.to_bits()).is_some(),
            IpAddr::V6(address) => range_of(&self.v6, address.to_bits()).is_some(),
        }
    }

    fn includes(&self, other: &Self) -> bool {
        fn all<T: Copy + Ord>(mine: &[(T, T)], theirs: &[(T, T)]) -> bool {
            theirs.iter().all(|&(first, last)| {
                range_of(mine, first).is_some_and(|(_, my_last)| last <= my_last)
            })
        }
        all(&self.v4, &other.v4) && all(&self.v6, &other.v6)
    }
}

/// A file with a network or an address a line; `#` begins a comment.
///
/// Read when the rules are; [`NetworkFile::refresh`] reads it again when it has changed.
pub struct NetworkFile {
    path: PathBuf,
    ranges: ArcSwap<Ranges>,
    version: ArcSwap<Option<Version>>,
}

/// What differs between two versions of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    modified: SystemTime,
    size: u64,
    inode: u64,
}

/// Why a file of networks cannot be used.
#[derive(Debug, Error)]
pub enum NetworkFileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no regular file: a directory, a FIFO, a device, a socket.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is larger than [`MAX_FILE`].
    #[error("{} is larger than {} MiB", .0.display(), MAX_FILE >> 20)]
    TooLarge(PathBuf),
    /// A line is neither a network nor an address.
    #[error("{}:{line}: `{text}` is neither an IP address nor a network", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What stands there, escaped and cut.
        text: String,
    },
}

impl NetworkFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`NetworkFileError`].
    pub fn open(path: PathBuf) -> Result<Self, NetworkFileError> {
        let (version, ranges) = read(&path)?;
        Ok(Self {
            path,
            ranges: ArcSwap::from_pointee(ranges),
            version: ArcSwap::from_pointee(Some(version)),
        })
    }

    /// A file with nothing in it so far, until a [`NetworkFile::refresh`].
    #[must_use]
    pub fn unread(path: PathBuf) -> Self {
        Self { path, ranges: ArcSwap::default(), version: ArcSwap::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again if it is another than the last time; true: it was, and its networks
    /// are in force. A file that cannot be used is tried again when it has changed once more;
    /// until then what it last had stays in force.
    ///
    /// # Errors
    /// [`NetworkFileError`].
    pub fn refresh(&self) -> Result<bool, NetworkFileError> {
        let now = match version(&self.path) {
            Ok(now) => now,
            Err(source) => {
                // Told once: as long as it stays away, there is nothing new to tell.
                return match self.version.swap(Arc::new(None)).is_some() {
                    true => Err(NetworkFileError::Io { path: self.path.clone(), source }),
                    false => Ok(false),
                };
            }
        };
        if self.version.load().as_ref().as_ref() == Some(&now) {
            return Ok(false);
        }
        self.version.store(Arc::new(Some(now)));
        let (version, ranges) = read(&self.path)?;
        self.version.store(Arc::new(Some(version)));
        self.ranges.store(Arc::new(ranges));
        Ok(true)
    }

    fn is(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

/// As rules files write it: `file:/etc/mux/allow.txt`.
impl fmt::Display for NetworkFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file:{}", self.path.display())
    }
}

/// As rules files write them.
impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = self.written.iter().map(ToString::to_string);
        let files = self.files.iter().map(ToString::to_string);
        f.write_str(&written.chain(files).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for NetworkFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NetworkFile").field(&self.path).finish()
    }
}

impl Version {
    fn of(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self { modified: metadata.modified()?, size: metadata.len(), inode: metadata.ino() })
    }
}

fn version(path: &Path) -> io::Result<Version> {
    Version::of(&fs::metadata(path)?)
}

/// The version is taken first: of a file that is written meanwhile, an old one, so that it is
/// read again. Never reads more than [`MAX_FILE`], however the file grows, and never waits for
/// somebody to write into a FIFO.
fn read(path: &Path) -> Result<(Version, Ranges), NetworkFileError> {
    let failed = |source| NetworkFileError::Io { path: path.to_owned(), source };
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    let file: File = options.read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(NetworkFileError::NotAFile(path.to_owned()));
    }
    let version = Version::of(&metadata).map_err(failed)?;
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(NetworkFileError::TooLarge(path.to_owned()));
    }
    match networks_in(&text) {
        Ok(networks) => Ok((version, networks.into_iter().collect())),
        Err((line, text)) => Err(NetworkFileError::Line { path: path.to_owned(), line, text }),
    }
}

/// The networks in the text of a file: a network or an address a line, `#` begins a comment.
///
/// # Errors
/// The first line (from 1) that has something else, and what it has, escaped and cut.
pub fn networks_in(text: &[u8]) -> Result<Vec<IpNet>, (usize, String)> {
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    let networks = lines.filter_map(|(index, line)| match network(line) {
        Ok(network) => network.map(Ok),
        Err(text) => Some(Err((index + 1, text))),
    });
    networks.collect()
}

/// The network of a line, if there is one in it. The error is the line's text.
fn network(line: &[u8]) -> Result<Option<IpNet>, String> {
    let entry = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
    if entry.is_empty() {
        return Ok(None);
    }
    std::str::from_utf8(entry)
        .ok()
        .and_then(parse_network)
        .map(Some)
        .ok_or_else(|| entry[..entry.len().min(80)].escape_ascii().to_string())
}

/// A network (`10.0.0.0/8`), or an address, which is a network of one.
#[must_use]
pub fn parse_network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u32>(), 0_u8..=32).prop_map(|(bits, len)| {
            IpNet::new(IpAddr::V4((bits & 0xf000_00ff).into()), len).expect("in range")
        });
        let v6 = (any::<u128>(), 0_u8..=128).prop_map(|(bits, len)| {
            IpNet::new(IpAddr::V6((bits >> 124 << 124 | bits & 0xff).into()), len)
                .expect("in range")
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn ranges_agree_with_each_network(
            mine in proptest::collection::vec(networks(), 1..8),
            theirs in proptest::collection::vec(networks(), 1..3),
            address in networks(),
        ) {
            let address = address.addr();
            let all = Networks::new(mine.clone()).expect("not empty");
            let naive = mine.iter().any(|network| network.contains(&address));
            prop_assert_eq!(all.contains(address), naive);
            let theirs = Networks::new(theirs).expect("not empty");
            if all.includes(&theirs) && theirs.contains(address) {
                prop_assert!(naive);
            }
            prop_assert!(all.includes(&all));
        }
    }

    fn is_in(file: &NetworkFile, address: &str) -> bool {
        file.ranges.load().contains(address.parse().expect(address))
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_kept_when_it_cannot_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("allow");
        let write = |text: &str| {
            // As a tool that is careful does it: no half-written file is ever seen.
            let new = folder.path().join("new");
            fs::write(&new, text).expect("it can be written");
            fs::rename(&new, &path).expect("it can be renamed");
        };
        write("# ours\n10.0.0.0/8 # all\n\n  2001:db8::1\r\n");
        let file = NetworkFile::open(path.clone()).expect("valid");
        assert!(is_in(&file, "10.1.2.3") && is_in(&file, "2001:db8::1"));
        assert!(!is_in(&file, "192.0.2.1"));
        assert!(!file.refresh().expect("the same"));

        write("192.0.2.0/24\n");
        assert!(file.refresh().expect("valid"));
        assert!(is_in(&file, "192.0.2.1") && !is_in(&file, "10.1.2.3"));

        write("192.0.2.0/24\n10.0.0.0/33\n");
        let error = file.refresh().expect_err("33 bits").to_string();
        assert!(error.ends_with("allow:2: `10.0.0.0/33` is neither an IP address nor a network"));
        assert!(!file.refresh().expect("told already"));
        assert!(is_in(&file, "192.0.2.1"));

        fs::remove_file(&path).expect("it is there");
        assert!(matches!(file.refresh(), Err(NetworkFileError::Io { .. })));
        assert!(!file.refresh().expect("told already"));
        assert!(is_in(&file, "192.0.2.1"));
        write("");
        assert!(file.refresh().expect("valid"));
        assert!(!is_in(&file, "192.0.2.1"));
    }

    #[test]
    fn a_fifo_or_a_device_is_refused_at_once_and_an_endless_file_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a FIFO");
        for path in [fifo, "/dev/zero".into(), folder.path().to_owned()] {
            let refused = NetworkFile::open(path.clone());
            assert!(matches!(refused, Err(NetworkFileError::NotAFile(_))), "{}", path.display());
        }
        let large = folder.path().join("large");
        let sparse = File::create(&large).expect("it can be written");
        sparse.set_len(MAX_FILE + 1).expect("it can be long");
        assert!(matches!(NetworkFile::open(large), Err(NetworkFileError::TooLarge(_))));
    }

    #[test]
    fn what_cannot_be_read_is_told_by_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deny");
        assert!(matches!(NetworkFile::open(path.clone()), Err(NetworkFileError::Io { .. })));
        fs::write(&path, b"::1\n\xff\xfe\n").expect("it can be written");
        let error = NetworkFile::open(path).expect_err("no text").to_string();
        assert!(error.contains("deny:2: `\\xff\\xfe`"), "{error}");
    }
}
