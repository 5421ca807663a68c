//! The machine's whole file system: init, the programs under test with the libraries that they
//! are linked with here, a few small files, modules.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{cpio::Archive, modules::Module, payload};
use crate::sh;

/// What goes in.
#[derive(Debug)]
pub(crate) struct Content {
    /// `mux-vm-init`.
    pub(crate) init: PathBuf,
    /// Programs, for `/bin`.
    pub(crate) programs: Vec<PathBuf>,
    /// [`payload::file`].
    pub(crate) payload: String,
}

/// Where init mounts something.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "tmp", "run"];

impl Content {
    /// The archive, with a kernel's modules in it.
    ///
    /// # Errors
    /// A program or a library cannot be read.
    pub(crate) fn archive(&self, modules: &[Module]) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in DIRECTORIES {
            archive.directory(directory);
        }
        // The kernel opens it for init before anything is mounted.
        archive.device("dev/console", (5, 1));
        archive.file("init", 0o755, &read(&self.init)?);
        let mut needed = libraries(&self.init)?;
        for program in &self.programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("bin/{name}"), 0o755, &read(program)?);
            needed.append(&mut libraries(program)?);
        }
        for library in needed {
            let path = library.to_string_lossy();
            archive.file(path.trim_start_matches('/'), 0o755, &read(&library)?);
        }
        for (path, text) in payload::FILES {
            archive.file(path, 0o644, text.as_bytes());
        }
        let order: String = modules.iter().map(|module| format!("{}\n", module.file)).collect();
        archive.file("modules/order", 0o644, order.as_bytes());
        for module in modules {
            archive.file(&format!("modules/{}", module.file), 0o644, &module.object);
        }
        archive.file("payload", 0o644, self.payload.as_bytes());
        Ok(archive.finish())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The shared libraries of a program, its loader among them. Copies of what the host runs, rather
/// than a static build: it is the very daemon that is shipped, and need not be built twice.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    Ok(paths(&sh::output(sh::program("ldd").arg(program))?))
}

/// The paths in what `ldd` prints: `name => /path (0x…)` or `/path (0x…)`.
fn paths(ldd: &str) -> BTreeSet<PathBuf> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_ldd_names() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f9c)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f9d)\n";
        let wanted = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(text), wanted.map(PathBuf::from).into());
    }
}
