//! `mux-ebpf/prebuilt/PROVENANCE.toml`: from what, and with what, the committed object was made.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::toolchain::Toolchain;

/// The committed object, below the workspace's root.
pub(crate) const OBJECT: &str = "mux-ebpf/prebuilt/mux.bpf.o";
/// Its provenance, below the workspace's root.
const PROVENANCE: &str = "mux-ebpf/prebuilt/PROVENANCE.toml";
/// What the object is made of; everything below these, and nothing else, is hashed.
const SOURCES: [&str; 4] =
    ["mux-common/Cargo.toml", "mux-common/src", "mux-ebpf/Cargo.toml", "mux-ebpf/src"];

/// Where an object comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// First line of `rustc --version`.
    pub(crate) rustc: String,
    /// `bpf-linker --version`.
    pub(crate) bpf_linker: String,
    /// [`source_hash`] at the time.
    pub(crate) source_sha256: String,
    /// SHA-256 of the object, hexadecimal.
    pub(crate) object_sha256: String,
}

impl Provenance {
    /// Of `object`, just made by `toolchain` from the source under `root`.
    ///
    /// # Errors
    /// A source file cannot be read.
    pub(crate) fn new(toolchain: &Toolchain, root: &Path, object: &[u8]) -> Result<Self> {
        Ok(Self {
            rustc: toolchain.version.clone(),
            bpf_linker: toolchain.linker_version.clone(),
            source_sha256: source_hash(root)?,
            object_sha256: sha256(object),
        })
    }

    /// Reads the committed one. `None`: there is none.
    ///
    /// # Errors
    /// It is there but lacks a key.
    pub(crate) fn load(root: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(root.join(PROVENANCE)) {
            Ok(text) => Self::parse(&text).map(Some).with_context(|| PROVENANCE.to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(PROVENANCE),
        }
    }

    /// Writes it beside the object.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&self, root: &Path) -> Result<()> {
        fs::write(root.join(PROVENANCE), self.render()).context(PROVENANCE)
    }

    fn render(&self) -> String {
        format!(
            "# Written by `cargo xtask ebpf`; `cargo xtask ebpf --check` proves it.\n\
             rustc = \"{}\"\nbpf_linker = \"{}\"\n\
             # Of mux-common and mux-ebpf: src and Cargo.toml.\n\
             source_sha256 = \"{}\"\nobject_sha256 = \"{}\"\n",
            self.rustc, self.bpf_linker, self.source_sha256, self.object_sha256
        )
    }

    /// Reads what [`Self::render`] writes: `key = "value"` lines and comments. Not all of TOML,
    /// so that xtask, which is built before anything else, needs no parser for it.
    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .and_then(|(_, value)| value.trim().strip_prefix('"')?.strip_suffix('"'))
                .map(str::to_owned)
                .with_context(|| {
                    format!("`{key} = \"…\"` is missing\nhint: `cargo xtask ebpf` writes the file")
                })
        };
        Ok(Self {
            rustc: value("rustc")?,
            bpf_linker: value("bpf_linker")?,
            source_sha256: value("source_sha256")?,
            object_sha256: value("object_sha256")?,
        })
    }
}

/// SHA-256 over the object's sources: each file's path, length and content, in path order.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn source_hash(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file);
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update([0]);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        for entry in entries {
            collect(&entry.context("cannot list a directory")?.path(), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Provenance {
        Provenance {
            rustc: "rustc 1.96.0 (ac68faa20 2026-05-25)".into(),
            bpf_linker: "bpf-linker 0.10.4".into(),
            source_sha256: "aa".into(),
            object_sha256: "bb".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() -> Result<()> {
        assert_eq!(Provenance::parse(&example().render())?, example());
        Ok(())
    }

    #[test]
    fn a_missing_key_is_named() {
        let text = example().render().replace("bpf_linker", "linker");
        let error = Provenance::parse(&text).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("`bpf_linker = ")));
    }

    #[test]
    fn the_hash_sees_content_and_names_of_sources_only() -> Result<()> {
        let root = tempfile::tempdir()?;
        let root = root.path();
        for dir in ["mux-common/src", "mux-ebpf/src"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for file in ["mux-common/Cargo.toml", "mux-ebpf/Cargo.toml", "mux-ebpf/src/main.rs"] {
            fs::write(root.join(file), "one")?;
        }
        let first = source_hash(root)?;
        fs::write(root.join("mux-ebpf/README.md"), "not a source")?;
        assert_eq!(source_hash(root)?, first);
        fs::write(root.join("mux-ebpf/src/main.rs"), "two")?;
        let second = source_hash(root)?;
        assert_ne!(second, first);
        fs::rename(root.join("mux-ebpf/src/main.rs"), root.join("mux-ebpf/src/other.rs"))?;
        assert_ne!(source_hash(root)?, second);
        Ok(())
    }

    #[test]
    fn sha256_of_nothing() {
        assert!(sha256(b"").starts_with("e3b0c44298fc1c14"));
    }
}
