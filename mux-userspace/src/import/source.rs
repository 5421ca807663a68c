//! The files of one configuration, and the places in them.
//!
//! Reads what the user named and what it includes, and nothing else. All of it together is
//! bounded.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::rules::{Diagnostic, Report};

/// Most bytes of a configuration with all its includes.
pub const MAX_SIZE: usize = 1 << 20;

/// Where a piece of text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Which of the [`Sources`].
    file: usize,
    /// In bytes.
    start: usize,
    end: usize,
}

impl Span {
    pub(super) const fn new(file: usize, start: usize, end: usize) -> Self {
        Self { file, start, end }
    }

    /// From the beginning of this one to the end of `last`; just this one where that is in
    /// another file.
    pub(super) const fn to(self, last: Self) -> Self {
        if self.file == last.file { Self { end: last.end, ..self } } else { self }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    file: usize,
    diagnostic: Diagnostic,
}

impl Problem {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        let Span { file, start, end } = span;
        Self { file, diagnostic: Diagnostic::new(start..end, message) }
    }

    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Self { diagnostic: self.diagnostic.label(label), ..self }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { diagnostic: self.diagnostic.hint(hint), ..self }
    }

    /// What is wrong, without the place.
    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.diagnostic.message
    }
}

/// A place, for people: file, line and column, both from 1; the column counts characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column } = self;
        write!(f, "{file}:{line}:{column}")
    }
}

/// The files.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<File>,
    size: usize,
}

#[derive(Debug)]
struct File {
    name: String,
    /// What its includes are relative to.
    directory: PathBuf,
    bytes: Arc<[u8]>,
}

impl Sources {
    /// Reads a file that the user named; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read, or is larger than [`MAX_SIZE`].
    pub(super) fn open(&mut self, path: &Path) -> io::Result<usize> {
        if path == Path::new("-") {
            let bytes = self.read(io::stdin().lock())?;
            return self.add("<stdin>".to_owned(), PathBuf::new(), bytes);
        }
        let bytes = self.read(fs::File::open(path)?)?;
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        self.add(path.display().to_string(), directory, bytes)
    }

    /// Reads a file that another one includes: relative to that one. A pipe or a device, which
    /// may never end, is not read.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub(super) fn include(&mut self, from: usize, path: &Path) -> io::Result<usize> {
        let directory = self.files.get(from).map_or(Path::new(""), |file| &file.directory);
        let path = directory.join(path);
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        self.open(&path)
    }

    /// Adds text that is there already.
    ///
    /// # Errors
    /// It is larger than [`MAX_SIZE`].
    pub(super) fn add(
        &mut self,
        name: String,
        directory: PathBuf,
        bytes: Vec<u8>,
    ) -> io::Result<usize> {
        self.size = self.size.saturating_add(bytes.len());
        if self.size > MAX_SIZE {
            let message = format!("with all its includes it is larger than {MAX_SIZE} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.files.push(File { name, directory, bytes: bytes.into() });
        Ok(self.files.len() - 1)
    }

    /// One byte more than there may be, at most: [`Self::add`] complains about it.
    fn read(&self, from: impl Read) -> io::Result<Vec<u8>> {
        let most = (MAX_SIZE - self.size.min(MAX_SIZE)) as u64 + 1;
        let mut bytes = Vec::new();
        from.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn bytes(&self, file: usize) -> Arc<[u8]> {
        self.files.get(file).map_or_else(|| Arc::from([]), |file| file.bytes.clone())
    }

    /// Where a span begins.
    #[must_use]
    pub fn place(&self, span: Span) -> Place {
        let Some(File { name, bytes, .. }) = self.files.get(span.file) else {
            return Place { file: String::new(), line: 1, column: 1 };
        };
        let before = &bytes[..span.start.min(bytes.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        Place {
            file: name.clone(),
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
        }
    }

    /// One report a file that something is wrong in.
    pub(super) fn reports(&self, problems: Vec<Problem>) -> Vec<Report> {
        self.files
            .iter()
            .enumerate()
            .filter_map(|(index, file)| {
                let diagnostics: Vec<Diagnostic> = problems
                    .iter()
                    .filter(|problem| problem.file == index)
                    .map(|problem| problem.diagnostic.clone())
                    .collect();
                let report =
                    || Report::new(&file.name, &drawable(&file.bytes), diagnostics.clone());
                (!diagnostics.is_empty()).then(report)
            })
            .collect()
    }
}

/// The file as text in which every byte stands where it stood: one that is not UTF-8 is a `?`.
fn drawable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let mut sources = Sources::default();
        let text = "a = 1\nä = \"\u{1f980}\" x\n".as_bytes().to_vec();
        let at = text.iter().position(|&byte| byte == b'x').expect("there is an x");
        let file = sources.add("x.cfg".to_owned(), PathBuf::new(), text).expect("it is small");
        let place = |start| sources.place(Span::new(file, start, start + 1)).to_string();
        assert_eq!(place(0), "x.cfg:1:1");
        assert_eq!(place(6), "x.cfg:2:1");
        assert_eq!(place(at), "x.cfg:2:9");
        assert_eq!(place(9999), "x.cfg:3:1");
        assert_eq!(sources.place(Span::new(7, 0, 0)).line, 1);
    }

    #[test]
    fn reports_keep_their_columns_where_bytes_are_not_utf8() {
        let mut sources = Sources::default();
        let text = b"# caf\xe9\nhost = caf\xe9; # \xff\n".to_vec();
        let file = sources.add("x.cfg".to_owned(), PathBuf::new(), text).expect("it is small");
        let reports = sources.reports(vec![Problem::new(Span::new(file, 14, 18), "m").hint("h")]);
        let text: Vec<String> = reports.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "error: m\n --> x.cfg:2:8\n  |\n2 | host = caf?; # ?\n  |        ^^^^\n  |\n  = hint: h"
            ]
        );
    }

    #[test]
    fn all_files_together_are_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let big = directory.path().join("big.cfg");
        fs::write(&big, vec![b' '; MAX_SIZE / 2 + 1]).expect("it can be written");
        let mut sources = Sources::default();
        let first = sources.open(&big).expect("half of what there may be");
        let error = sources.include(first, Path::new("big.cfg")).expect_err("too much");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_never_ends_is_not_included() {
        let mut sources = Sources::default();
        let file = sources.add("x".to_owned(), PathBuf::new(), Vec::new()).expect("it is small");
        for path in ["/dev/zero", "/", "/nonexistent/x.cfg"] {
            assert!(sources.include(file, Path::new(path)).is_err(), "{path}");
        }
    }
}
