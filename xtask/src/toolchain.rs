//! Finding (and installing) a toolchain that builds for `bpfel-unknown-none`: a compiler with
//! core's source, and bpf-linker with a libLLVM of the compiler's version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{apt, sh};

/// The bpf-linker that is installed. It borrows the compiler's libLLVM; later ones
/// bring or want an LLVM of their own, which Debian 12 does not have.
pub(crate) const BPF_LINKER_VERSION: &str = "0.10.4";

/// LLVM's major version that this bpf-linker is made for.
const BPF_LINKER_LLVM: &str = "22";

/// Debian's packages: a compiler, its cargo, and core's source.
pub(crate) const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A toolchain that can build the eBPF half.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// `rustup 1.97.0-nightly…` or `Debian`, for messages.
    pub(crate) name: String,
    /// The compiler itself, not rustup's proxy.
    pub(crate) rustc: PathBuf,
    /// The cargo beside it.
    pub(crate) cargo: PathBuf,
    /// First line of `rustc --version`.
    pub(crate) version: String,
    /// Prefix of core's source, to be taken out of the object.
    pub(crate) library_source: PathBuf,
    /// The libLLVM that bpf-linker borrows.
    pub(crate) llvm: PathBuf,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
    /// `bpf-linker --version`.
    pub(crate) linker_version: String,
}

/// Finds a toolchain; of several, the one whose compiler is `preferred` (a `rustc --version`),
/// since another compiler may well make other instructions of the same source.
///
/// # Errors
/// None is complete: what was looked at, what each lacks, and the commands that install one.
pub(crate) fn find(preferred: Option<&str>) -> Result<Toolchain> {
    let mut lacking = Vec::new();
    let mut found = Vec::new();
    for (name, prefix) in candidates() {
        match complete(name.clone(), &prefix) {
            Ok(toolchain) => found.push(toolchain),
            Err(error) => lacking.push(format!("  {name}: {error:#}")),
        }
    }
    let index = found.iter().position(|t| Some(t.version.as_str()) == preferred).unwrap_or(0);
    if index < found.len() {
        return Ok(found.swap_remove(index));
    }
    bail!(
        "no toolchain here can build the eBPF half\n{}\nhint: `cargo xtask ebpf --install`, or by hand:\n{}",
        lacking.join("\n"),
        install_commands()
    )
}

/// Finds a toolchain as [`find`] does; installs Debian's if there is none.
///
/// # Errors
/// Nothing can be installed without root or `sudo`, or the installation fails.
pub(crate) fn find_or_install(preferred: Option<&str>) -> Result<Toolchain> {
    if let Ok(toolchain) = find(preferred) {
        return Ok(toolchain);
    }
    let compiler_there = candidates().iter().any(|(_, prefix)| compiler(prefix).is_ok());
    if !compiler_there {
        apt::install(&DEBIAN_PACKAGES)
            .context("cannot install a compiler that has core's source")?;
    }
    if sh::find("bpf-linker").is_none() {
        sh::status(format!("installing bpf-linker {BPF_LINKER_VERSION} (a minute or two)"));
        sh::run(sh::cargo().args(LINKER_INSTALL).current_dir("/"))?;
    }
    find(preferred)
}

/// What a person has to type to get a toolchain.
pub(crate) fn install_commands() -> String {
    format!(
        "  apt-get install {}    (or: rustup component add rust-src)\n  cargo {}",
        DEBIAN_PACKAGES.join(" "),
        LINKER_INSTALL.join(" ")
    )
}

/// cargo's arguments that install bpf-linker.
const LINKER_INSTALL: [&str; 5] =
    ["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"];

/// Installation prefixes that may hold a compiler: rustup's toolchains by name, then Debian's.
fn candidates() -> Vec<(String, PathBuf)> {
    let mut prefixes: Vec<(String, PathBuf)> = sh::rustup_home()
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (format!("rustup {}", entry.file_name().to_string_lossy()), entry.path()))
        .collect();
    prefixes.sort();
    prefixes.push(("Debian".to_owned(), PathBuf::from("/usr")));
    prefixes
}

/// The compiler and cargo under `prefix`, if core's source is there too.
fn compiler(prefix: &Path) -> Result<(PathBuf, PathBuf)> {
    let (rustc, cargo) = (prefix.join("bin/rustc"), prefix.join("bin/cargo"));
    for file in [&rustc, &cargo] {
        if !sh::is_executable(file) {
            bail!("{} is not there", file.display());
        }
    }
    let source = prefix.join("lib/rustlib/src/rust");
    if !source.join("library/core/Cargo.toml").is_file() {
        bail!("core's source is not in {}", source.display());
    }
    Ok((rustc, cargo))
}

/// Everything that a build needs, for the compiler under `prefix`.
fn complete(name: String, prefix: &Path) -> Result<Toolchain> {
    let (rustc, cargo) = compiler(prefix)?;
    let verbose = sh::output(direct(&rustc).arg("-vV"))?;
    let version = verbose.lines().next().unwrap_or_default().to_owned();
    let llvm_version = field(&verbose, "LLVM version: ").context("`rustc -vV` names no LLVM")?;
    let major = llvm_version.split('.').next().unwrap_or_default();
    if major != BPF_LINKER_LLVM {
        bail!(
            "its LLVM is {llvm_version}; bpf-linker {BPF_LINKER_VERSION} wants {BPF_LINKER_LLVM}"
        );
    }
    let host = field(&verbose, "host: ").unwrap_or_default();
    let llvm = libllvm(prefix, &host, major)
        .with_context(|| format!("no libLLVM of version {major} under {}", prefix.display()))?;
    let linker = sh::find("bpf-linker").context("bpf-linker is not installed")?;
    let linker_version = sh::output(direct(&linker).arg("--version"))?;
    let library_source = prefix.join("lib/rustlib/src/rust");
    Ok(Toolchain { name, rustc, cargo, version, library_source, llvm, linker, linker_version })
}

/// A command that sees nothing of the toolchain that runs xtask.
fn direct(program: &Path) -> Command {
    let mut command = sh::program(program);
    sh::without_compiler_settings(&mut command);
    command
}

/// The value after `key` in `rustc -vV`'s output.
fn field(verbose: &str, key: &str) -> Option<String> {
    verbose.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned)
}

/// The libLLVM of the compiler under `prefix`. Debian keeps several versions side by side, so
/// the name must carry `major`; a file of a few bytes is a linker script.
fn libllvm(prefix: &Path, host: &str, major: &str) -> Option<PathBuf> {
    let multiarch = host.replace("-unknown-", "-");
    let wanted = [format!("libLLVM.so.{major}."), format!("libLLVM-{major}")];
    [prefix.join("lib"), prefix.join("lib").join(multiarch)]
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            wanted.iter().any(|start| name.starts_with(start))
        })
        .map(|entry| entry.path())
        .find(|path| path.metadata().is_ok_and(|meta| meta.len() > 1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_rustc_vv() {
        let text = "rustc 1.96.0 (x)\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8";
        assert_eq!(field(text, "LLVM version: ").as_deref(), Some("22.1.8"));
        assert_eq!(field(text, "release: "), None);
    }

    #[test]
    fn debians_other_llvm_versions_are_not_taken() -> Result<()> {
        let prefix = tempfile::tempdir()?;
        let dir = prefix.path().join("lib/x86_64-linux-gnu");
        fs::create_dir_all(&dir)?;
        for (name, len) in [("libLLVM-14.so.1", 2 << 20), ("libLLVM.so.22.1", 2 << 20)] {
            fs::File::create(dir.join(name))?.set_len(len)?;
        }
        fs::File::create(dir.join("libLLVM-22.so"))?.set_len(40)?;
        let found = libllvm(prefix.path(), "x86_64-unknown-linux-gnu", "22");
        assert_eq!(found, Some(dir.join("libLLVM.so.22.1")));
        Ok(())
    }

    #[test]
    fn a_prefix_without_source_says_so() -> Result<()> {
        let prefix = tempfile::tempdir()?;
        let error = compiler(prefix.path()).err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("bin/rustc is not there")));
        Ok(())
    }
}
