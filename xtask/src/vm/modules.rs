//! A kernel's modules that tests need, in the order in which they can be loaded. Debian's packages
//! have no `modules.dep` (depmod makes it when they are installed), so each module is asked.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use object::{Object as _, ObjectSection as _};

use crate::sh;

/// Interfaces, packet loss and delay, what `ss` asks, and where programs are attached before tcx, beside
/// others. What a kernel has not as a module is built in, or not there: then the test that wants it says so.
const WANTED: [&str; 11] = [
    "veth",
    "tun",
    "nf_tables",
    "nft_counter",
    "nft_limit",
    "nft_numgen",
    "sch_netem",
    "tcp_diag",
    "sch_ingress",
    "cls_bpf",
    "cls_u32",
];

/// A module, decompressed.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its file name, without what compressed it.
    pub(crate) file: String,
    /// Its ELF object.
    pub(crate) object: Vec<u8>,
}

/// Reads the wanted modules and all that they depend on, dependencies first.
///
/// # Errors
/// A file cannot be read, or is no module.
pub(crate) fn read(directory: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(&directory.join("kernel"), &mut files)?;
    let mut modules = Vec::new();
    let mut seen = Vec::new();
    for name in WANTED {
        add(name, &files, &mut seen, &mut modules)?;
    }
    Ok(modules)
}

fn index(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `a-b.ko.xz` is the module `a_b`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_string_lossy();
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut Vec<String>,
    modules: &mut Vec<Module>,
) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if seen.iter().any(|other| other == name) {
        return Ok(());
    }
    seen.push(name.to_owned());
    let object = decompressed(path)?;
    let needs = dependencies(&object).with_context(|| format!("{}", path.display()))?;
    for needed in needs {
        add(&needed, files, seen, modules)?;
    }
    modules.push(Module { file: format!("{name}.ko"), object });
    Ok(())
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    sh::bytes(sh::program(program).arg("-dc").arg(path))
}

/// The `depends=` of a module's `.modinfo`.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module).context("is not a module")?;
    let section = file.section_by_name(".modinfo").context("has no .modinfo")?;
    Ok(depends(section.data()?))
}

fn depends(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|&byte| byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="))
        .flat_map(|names| names.split(|&byte| byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_stand_in_modinfo() {
        let modinfo = b"license=GPL\0depends=nf-defrag,libcrc32c\0retpoline=Y\0";
        assert_eq!(depends(modinfo), ["nf_defrag", "libcrc32c"]);
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
    }

    #[test]
    fn names_of_modules() {
        let name = |file| module_name(Path::new(file));
        assert_eq!(name("/x/nf-tables.ko.xz"), Some("nf_tables".to_owned()));
        assert_eq!(name("/x/veth.ko"), Some("veth".to_owned()));
        assert_eq!(name("/x/modules.builtin"), None);
    }
}
