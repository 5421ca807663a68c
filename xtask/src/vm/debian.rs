//! Getting a kernel from Debian, through apt with directories of its own: the index's signature and
//! the packages' hashes are checked, the host's suites stay as they are, and nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::kernels::Source;
use crate::sh;

/// The metapackage that depends on the latest.
const META: &str = "linux-image-cloud-amd64";
/// Packages with these names hold the image and the modules. Until 7.0 that is one; since then the
/// image is in `linux-binary-*` and `linux-image-*` is empty.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
/// The keys that Debian signs with; package `debian-archive-keyring`.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Waits between tries to get a kernel: an archive that is just being updated has an index that does
/// not fit its packages, or answers with an error, for a while.
const AGAIN: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60)];

/// A kernel, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The directory of its modules, `…/lib/modules/RELEASE`.
    pub(crate) modules: PathBuf,
    /// The image.
    pub(crate) image: PathBuf,
}

/// Unpacks the latest kernel of `source` below `cache`; what is there already is taken as it is,
/// unless `update`.
///
/// # Errors
/// The archive cannot be reached, or what comes is not what was signed.
pub(crate) fn kernel(source: &Source, cache: &Path, update: bool) -> Result<Kernel> {
    let unpacked = cache.join(source.name);
    if !update && let Ok(kernel) = find(&unpacked) {
        return Ok(kernel);
    }
    let work = cache.join(format!("{}.new", source.name));
    persistently(|| fetch(source, &work))
        .with_context(|| format!("cannot get {META} of Debian's {}", source.suite))?;
    let _ = fs::remove_dir_all(&unpacked);
    // Renamed when complete: what an interrupted run leaves is never taken for a kernel.
    fs::rename(work.join("root"), &unpacked)?;
    fs::remove_dir_all(&work)?;
    find(&unpacked)
}

/// Tries again, later, what failed.
fn persistently(mut task: impl FnMut() -> Result<()>) -> Result<()> {
    for wait in AGAIN {
        match task() {
            Ok(()) => return Ok(()),
            Err(error) => sh::status(format!("{error:#}; again in {} s", wait.as_secs())),
        }
        thread::sleep(wait);
    }
    task()
}

fn fetch(source: &Source, work: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(work);
    let apt = Apt::new(source, work)?;
    sh::output(apt.command("apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]))?;

    let mut packages = vec![META.to_owned()];
    let mut next = 0;
    while let Some(package) = packages.get(next) {
        let shown =
            sh::output(apt.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        for part in parts(&shown) {
            if !packages.contains(&part) {
                packages.push(part);
            }
        }
        next += 1;
    }
    let download = work.join("packages");
    fs::create_dir_all(&download)?;
    sh::output(apt.command("apt-get").arg("download").args(&packages[1..]).current_dir(&download))?;
    for entry in fs::read_dir(&download)? {
        sh::run(sh::program("dpkg-deb").arg("-x").arg(entry?.path()).arg(work.join("root")))?;
    }
    Ok(())
}

/// apt with directories of its own.
pub(super) struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(source: &Source, work: &Path) -> Result<Self> {
        // A suite whose support ended is not signed anew; that is no reason not to test it.
        let line = format!(
            "deb [arch=amd64 signed-by={KEYRING} check-valid-until=no] {} {} main\n",
            source.archive, source.suite
        );
        fs::create_dir_all(work)?;
        let list = work.join("sources.list");
        fs::write(&list, line)?;
        Self::with(work, &list, Path::new("-"))
    }

    /// With the sources that this machine has.
    pub(super) fn of_this_machine(work: &Path) -> Result<Self> {
        Self::with(work, Path::new("/etc/apt/sources.list"), Path::new("/etc/apt/sources.list.d"))
    }

    fn with(work: &Path, list: &Path, parts: &Path) -> Result<Self> {
        for directory in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(work.join(directory))?;
        }
        let status = work.join("status");
        fs::write(&status, "")?;
        let options = [
            ("Dir::Etc::sourcelist", list.into()),
            ("Dir::Etc::sourceparts", parts.into()),
            ("Dir::State", work.join("state")),
            ("Dir::State::status", status),
            ("Dir::Cache", work.join("cache")),
            ("APT::Architecture", "amd64".into()),
            ("APT::Architectures", "amd64".into()),
            // The user `_apt` may not write here.
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "5".into()),
        ];
        let options =
            options.map(|(name, value): (_, PathBuf)| format!("{name}={}", value.display()));
        Ok(Self { options: options.into() })
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = sh::program(program);
        command.arg("-qq");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// Of the packages that `apt-cache show` says one depends on, those that hold a kernel's parts.
fn parts(shown: &str) -> Vec<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next())
        .filter(|package| PARTS.iter().any(|part| package.starts_with(part)))
        .map(str::to_owned)
        .collect()
}

/// The kernel that was unpacked to `root`.
fn find(root: &Path) -> Result<Kernel> {
    // Debian moved /lib to /usr/lib between 6.1 and 6.12, and the image from /boot after that.
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|directory| fs::read_dir(root.join(directory)).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("kernel").is_dir())
        .with_context(|| format!("no modules below {}", root.display()))?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy();
    let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    match images.into_iter().find(|image| image.is_file()) {
        Some(image) => Ok(Kernel { modules, image }),
        None => bail!("no image of {release} below {}", root.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_old_and_of_a_new_package() {
        let old = "Package: x\nDepends: linux-image-5.10.0-46-cloud-amd64 (= 5.10.262-1)\n";
        assert_eq!(parts(old), ["linux-image-5.10.0-46-cloud-amd64"]);
        let new = "Depends: dracut | linux-initramfs-tool, linux-base-7-c (= 7), \
                   linux-binary-7-c (= 7), linux-modules-7-c (= 7)";
        assert_eq!(parts(new), ["linux-binary-7-c", "linux-modules-7-c"]);
        assert!(parts("Package: x").is_empty());
    }

    #[test]
    fn images_are_found_where_debian_put_them() -> Result<()> {
        for (modules, image) in [
            ("lib/modules/5.10.0-c/kernel", "boot/vmlinuz-5.10.0-c"),
            ("usr/lib/modules/7.3.4-c/kernel", "usr/lib/modules/7.3.4-c/vmlinuz"),
        ] {
            let root = tempfile::tempdir()?;
            assert!(find(root.path()).is_err());
            fs::create_dir_all(root.path().join(modules))?;
            assert!(find(root.path()).is_err());
            fs::create_dir_all(root.path().join("boot"))?;
            fs::write(root.path().join(image), "")?;
            assert_eq!(find(root.path())?.image, root.path().join(image));
        }
        Ok(())
    }
}
