//! What a fuzzer begins with: the probes' fixtures, examples of configurations, and the words of
//! the rules file's language. Read from where they are kept for other purposes, so that they are
//! never behind.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use super::files;
use crate::sh;

/// Writes a target's first inputs into a folder under `own`.
pub(super) fn write(target: &str, own: &Path) -> Result<PathBuf> {
    let seeds = own.join("seeds");
    if seeds.exists() {
        fs::remove_dir_all(&seeds)?;
    }
    fs::create_dir_all(&seeds)?;
    let inputs = match target {
        "rules" => texts(&["examples", "tests/fixtures/sslh"], "toml")?,
        "import" => texts(&["tests/fixtures/sslh"], "cfg")?,
        "networks" => vec![b"# ours\n10.0.0.0/8 # all\n\n  2001:db8::1\r\n::/0\n".to_vec()],
        // The first two bytes say how the rest is cut, see the checks.
        "route" => with_head(&fixtures()?, |_| 0..4, |bytes| bytes),
        "heads" => with_head(&fixtures()?, |bytes| kind(bytes)..kind(bytes) + 1, head),
        _ => fixtures()?,
    };
    for (index, bytes) in inputs.iter().enumerate() {
        fs::write(seeds.join(index.to_string()), bytes)?;
    }
    Ok(seeds)
}

/// Inputs with two bytes before each, the first of them one of `firsts`.
fn with_head(
    inputs: &[Vec<u8>],
    firsts: impl Fn(&[u8]) -> std::ops::Range<u8>,
    rest: impl Fn(&[u8]) -> &[u8],
) -> Vec<Vec<u8>> {
    let one = |bytes: &Vec<u8>| {
        firsts(bytes).map(|first| [&[first, 9], rest(bytes)].concat()).collect::<Vec<_>>()
    };
    inputs.iter().flat_map(one).collect()
}

/// What the target `heads` takes these bytes for: 0 TLS, 1 HTTP/1, 2 HTTP/2.
fn kind(bytes: &[u8]) -> u8 {
    match bytes {
        [0x16, ..] => 0,
        _ if bytes.starts_with(b"PRI * ") => 2,
        _ => 1,
    }
}

/// What is behind the layers that the target `heads` puts around its inputs.
fn head(bytes: &[u8]) -> &[u8] {
    let line = || bytes.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let skipped = match kind(bytes) {
        // Headers of record and handshake.
        0 => 9,
        1 => line(),
        // Preface, SETTINGS and WINDOW_UPDATE of curl's, and a frame's header.
        _ => 24 + 9 + 18 + 13 + 9,
    };
    bytes.get(skipped..).unwrap_or_default()
}

/// The files in these folders whose names end so.
fn texts(folders: &[&str], extension: &str) -> Result<Vec<Vec<u8>>> {
    let mut texts = Vec::new();
    for folder in folders {
        for file in files(&sh::root().join(folder))? {
            if file.extension().is_some_and(|own| own == extension) {
                texts.push(fs::read(file)?);
            }
        }
    }
    Ok(texts)
}

/// The bytes of every fixture of the probes.
fn fixtures() -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for file in files(&sh::root().join("mux-userspace/fixtures/probes"))? {
        let table: toml::Table =
            fs::read_to_string(&file)?.parse().with_context(|| file.display().to_string())?;
        let fixtures = table.get("fixture").and_then(toml::Value::as_array);
        for fixture in fixtures.into_iter().flatten() {
            all.push(bytes_of(fixture).with_context(|| file.display().to_string())?);
        }
    }
    Ok(all)
}

fn bytes_of(fixture: &toml::Value) -> Result<Vec<u8>> {
    if let Some(text) = fixture.get("text").and_then(toml::Value::as_str) {
        return Ok(text.as_bytes().to_vec());
    }
    let Some(hex) = fixture.get("hex").and_then(toml::Value::as_str) else {
        bail!("a fixture has `text` or `hex`");
    };
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    ensure!(digits.len().is_multiple_of(2), "half a byte");
    let byte = |pair: &[u32]| u8::try_from(pair.iter().fold(0, |high, low| high << 4 | low));
    Ok(digits.chunks(2).map(byte).collect::<Result<_, _>>()?)
}

/// A file with the words that a random text would hardly hit on, for targets that have such.
pub(super) fn dictionary(target: &str, own: &Path) -> Result<Option<PathBuf>> {
    if target != "rules" {
        return Ok(None);
    }
    let mut pages = vec![fs::read(sh::root().join("docs/reference/rules.md"))?];
    pages.extend(texts(&["examples", "tests/fixtures/sslh"], "toml")?);
    let mut dictionary = String::new();
    for page in pages {
        words(&String::from_utf8_lossy(&page)).iter().for_each(|word| {
            let escaped = word.escape_default().to_string().replace("\\'", "'");
            let _ = writeln!(dictionary, "\"{escaped}\"");
        });
    }
    let path = own.join("dictionary");
    fs::write(&path, dictionary)?;
    Ok(Some(path))
}

/// Keys with their `=`, headers of tables, and short strings.
fn words(page: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for line in page.lines() {
        let mut parts = line.split(" = ").peekable();
        while let (Some(part), true) = (parts.next(), parts.peek().is_some()) {
            let key = part.rsplit(|c: char| !(c.is_ascii_lowercase() || c == '_')).next();
            words.extend(key.filter(|key| !key.is_empty()).map(|key| format!("{key} = ")));
        }
        let header = line.trim().starts_with('[') && line.trim().ends_with(']');
        words.extend(header.then(|| line.trim().to_owned()));
        words.extend(line.split('"').skip(1).step_by(2).map(|text| format!("\"{text}\"")));
    }
    words.retain(|word| word.is_ascii() && word.len() <= 24);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_has_keys_tables_and_values() {
        let page = "[[rule]]\nmatch = { http = { host = [\"a.example\"] } } # \"tls\"\n";
        let expected = ["[[rule]]", "match = ", "http = ", "host = ", "\"a.example\"", "\"tls\""];
        assert_eq!(words(page), expected.map(str::to_owned).into());
    }

    #[test]
    fn every_target_has_something_to_begin_with() {
        let folder = tempfile::tempdir().expect("a folder");
        for target in crate::fuzz::TARGETS {
            let seeds = write(target, folder.path()).expect(target);
            assert!(!files(&seeds).expect(target).is_empty(), "{target}");
        }
        let words = dictionary("rules", folder.path()).expect("readable").expect("there is one");
        let words = fs::read_to_string(words).expect("text");
        for word in ["\"on_timeout = \"", "\"[[upstream]]\"", "\"path_prefix = \""] {
            assert!(words.contains(word), "{word}");
        }
    }
}
