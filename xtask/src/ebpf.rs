//! `cargo xtask ebpf`: builds the kernel half and commits or checks the object.

use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt as _, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    object_diff::{Meaning, differences},
    provenance::{self, OBJECT, Provenance},
    sh, strip,
    toolchain::{self, Toolchain},
};

/// The eBPF target: little-endian, as all machines that mux is tested on.
const TARGET: &str = "bpfel-unknown-none";

/// `cargo xtask ebpf`.
#[derive(clap::Args, Debug)]
pub(crate) struct EbpfArgs {
    /// Build, compare with the committed object, change nothing; fails if they differ in
    /// instructions, maps, globals or license
    #[arg(long)]
    check: bool,
    /// Install what the build needs (Debian packages, bpf-linker) where it is missing
    #[arg(long)]
    install: bool,
}

/// Runs it.
///
/// # Errors
/// No toolchain, a build that fails, or (`--check`) an object that differs.
pub(crate) fn command(args: &EbpfArgs) -> Result<()> {
    let toolchain = select(args.install)?;
    if args.check { check(&toolchain) } else { update(&toolchain) }
}

/// The toolchain to build with: the one that made the committed object, if it is here.
///
/// # Errors
/// There is none, or it cannot be installed.
pub(crate) fn select(install: bool) -> Result<Toolchain> {
    let committed = Provenance::load(sh::root())?;
    let preferred = committed.as_ref().map(|provenance| provenance.rustc.as_str());
    if install { toolchain::find_or_install(preferred) } else { toolchain::find(preferred) }
}

/// Builds and replaces the committed object.
fn update(toolchain: &Toolchain) -> Result<()> {
    let built = fs::read(build(toolchain)?).context("cannot read the built object")?;
    let root = sh::root();
    let committed = root.join(OBJECT);
    if let Some(dir) = committed.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    fs::write(&committed, &built).with_context(|| format!("cannot write {OBJECT}"))?;
    Provenance::new(toolchain, root, &built)?.save(root)?;
    sh::status(format!("{OBJECT}: {} bytes, by {}", built.len(), toolchain.version));
    Ok(())
}

/// Builds and compares with the committed object.
///
/// # Errors
/// The build fails, or the two differ (each difference went to standard error).
pub(crate) fn check(toolchain: &Toolchain) -> Result<()> {
    const HINT: &str = "hint: `cargo xtask ebpf` builds and replaces it; commit both files";
    let root = sh::root();
    let committed = fs::read(root.join(OBJECT)).with_context(|| format!("{OBJECT}\n{HINT}"))?;
    let Some(recorded) = Provenance::load(root)? else {
        bail!("{OBJECT} has no PROVENANCE.toml beside it\n{HINT}");
    };
    let built = fs::read(build(toolchain)?).context("cannot read the built object")?;
    let now = Provenance::new(toolchain, root, &built)?;

    let mut lines = differences(
        &Meaning::read(&committed).with_context(|| format!("{OBJECT}\n{HINT}"))?,
        &Meaning::read(&built).context("the built object")?,
    );
    if recorded.object_sha256 != provenance::sha256(&committed) {
        lines.push("the object is not the one that PROVENANCE.toml describes (SHA-256)".to_owned());
    }
    if !lines.is_empty() {
        for line in &lines {
            eprintln!("  {line}");
        }
        if recorded.rustc != now.rustc || recorded.bpf_linker != now.bpf_linker {
            eprintln!(
                "  note: the committed object was made by {} and {}; this one by {} and {}",
                recorded.rustc, recorded.bpf_linker, now.rustc, now.bpf_linker
            );
        }
        bail!("{OBJECT} is not what the source makes\n{HINT}");
    }
    if recorded.source_sha256 != now.source_sha256 {
        sh::status(
            "the source changed without changing an instruction; `cargo xtask ebpf` records it",
        );
    }
    sh::status(format!("{OBJECT} is what the source makes (by {})", toolchain.version));
    Ok(())
}

/// Builds and strips the object; returns where it is, under the target directory.
///
/// # Errors
/// The compiler or the linker fails (their own messages went to standard error).
pub(crate) fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    let target_dir = sh::target_dir().join("ebpf");
    sh::status(format!("building the eBPF half with {} ({})", toolchain.name, toolchain.version));
    sh::run(&mut cargo_build(toolchain, &target_dir)?)?;
    let linked = target_dir.join(TARGET).join("release/mux-ebpf");
    let object = fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let stripped = target_dir.join("mux.bpf.o");
    fs::write(&stripped, strip::strip(&object)?)
        .with_context(|| format!("cannot write {}", stripped.display()))?;
    Ok(stripped)
}

/// cargo's command line and environment for the eBPF build. The profile is set here, not in the
/// workspace's manifest, because the daemon's release profile is another.
fn cargo_build(toolchain: &Toolchain, target_dir: &Path) -> Result<Command> {
    let mut command = sh::program(&toolchain.cargo);
    sh::without_compiler_settings(&mut command);
    command
        .args(["build", "--quiet", "--release", "--package", "mux-ebpf"])
        .args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        // Lets a stable compiler take -Z; it is the only unstable thing that is used.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("LD_LIBRARY_PATH", llvm_dir(toolchain, target_dir)?)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain));
    let profile = [
        ("OPT_LEVEL", "3"),
        ("LTO", "fat"),
        ("CODEGEN_UNITS", "1"),
        ("PANIC", "abort"),
        ("DEBUG", "2"),
        ("STRIP", "none"),
        ("DEBUG_ASSERTIONS", "false"),
        ("OVERFLOW_CHECKS", "false"),
    ];
    for (name, value) in profile {
        command.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    Ok(command)
}

/// A directory with nothing but the compiler's libLLVM. bpf-linker takes the first `libLLVM*`
/// that it meets in `LD_LIBRARY_PATH`, and Debian's library directory holds several versions.
fn llvm_dir(toolchain: &Toolchain, target_dir: &Path) -> Result<PathBuf> {
    let dir = target_dir.join("llvm");
    let link = dir.join("libLLVM.so");
    let place = || -> std::io::Result<()> {
        fs::create_dir_all(&dir)?;
        match fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => symlink(&toolchain.llvm, &link),
        }
    };
    place().with_context(|| format!("cannot link {}", link.display()))?;
    Ok(dir)
}

/// rustc's flags for the eBPF target, separated as `CARGO_ENCODED_RUSTFLAGS` wants them (a path
/// may hold a space). BTF and panic messages name source files: they must not depend on where
/// the workspace, cargo's registry and core's source lie. The workspace becomes `.`, so that the
/// linker, which runs there, still finds the lines that BTF quotes.
fn rustflags(toolchain: &Toolchain) -> OsString {
    let mut flags: Vec<OsString> =
        ["-C", "debuginfo=2", "-C", "link-arg=--btf"].map(OsString::from).to_vec();
    // The last prefix that fits wins: the registry may lie inside the workspace.
    let mut prefixes = vec![(sh::root().to_owned(), ".")];
    let registries = sh::cargo_home().and_then(|home| fs::read_dir(home.join("registry/src")).ok());
    for registry in registries.into_iter().flatten().flatten() {
        prefixes.push((registry.path(), "registry"));
    }
    prefixes.push((toolchain.library_source.clone(), "rust"));
    for (from, to) in prefixes {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    }
    OsString::from_vec(
        flags.iter().map(|flag| flag.as_encoded_bytes()).collect::<Vec<_>>().join(&0x1f),
    )
}
