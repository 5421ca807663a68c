//! Takes the keys out of a TOML table, and reports the ones nobody asked for.

use std::{cell::RefCell, ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{Files, Surroundings, diagnostic::Diagnostic, suggest::did_you_mean_or_list};
use crate::route::{NetworkFile, NetworkFileError};

/// A TOML value and where it stands.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What is wrong so far, and what there is to be named. Reading goes on after a problem, to
/// find the others too.
#[derive(Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Diagnostic>>,
    surroundings: Surroundings,
    network_files: RefCell<Vec<Arc<NetworkFile>>>,
}

impl Problems {
    /// None so far.
    pub(super) fn new(surroundings: Surroundings) -> Self {
        Self { surroundings, ..Self::default() }
    }

    /// The file of networks of this path, read once however often it is named.
    pub(super) fn network_file(&self, path: &str) -> Result<Arc<NetworkFile>, NetworkFileError> {
        let path = self.surroundings.directory.join(path);
        let mut files = self.network_files.borrow_mut();
        if let Some(file) = files.iter().find(|file| file.path() == path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(match self.surroundings.files {
            Files::Read => NetworkFile::open(path)?,
            Files::Unread => NetworkFile::unread(path),
        });
        files.push(Arc::clone(&file));
        Ok(file)
    }

    /// All files of networks that were named.
    pub(super) fn network_files(&self) -> Vec<Arc<NetworkFile>> {
        self.network_files.borrow().clone()
    }

    /// What the text can refer to.
    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    pub(super) fn add(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    /// Keeps a value; a problem is recorded instead.
    pub(super) fn keep<T>(&self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.add(diagnostic)).ok()
    }

    pub(super) fn len(&self) -> usize {
        self.found.borrow().len()
    }

    pub(super) fn into_inner(self) -> Vec<Diagnostic> {
        self.found.into_inner()
    }
}

/// A table that is being read: every key is taken once, then [`Table::finish`].
pub(super) struct Table<'i, 'p> {
    /// What it is called in messages: `[[rule]]`.
    place: &'static str,
    span: Range<usize>,
    /// In the order of the text.
    entries: Vec<(Spanned<DeString<'i>>, Value<'i>)>,
    known: Vec<&'static str>,
    problems: &'p Problems,
}

impl<'i, 'p> Table<'i, 'p> {
    pub(super) fn new(
        place: &'static str,
        table: Spanned<DeTable<'i>>,
        problems: &'p Problems,
    ) -> Self {
        let span = table.span();
        let mut entries: Vec<_> = table.into_inner().into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        Self { place, span, entries, known: Vec::new(), problems }
    }

    /// Where the table, or its head, stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn problems(&self) -> &'p Problems {
        self.problems
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// Takes a value as it is. Once asked for, a key is a known one.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'i>> {
        self.known.push(key);
        self.remove(key).map(|(_, value)| value)
    }

    fn remove(&mut self, key: &str) -> Option<(Spanned<DeString<'i>>, Value<'i>)> {
        let index = self.entries.iter().position(|(name, _)| name.get_ref() == key)?;
        Some(self.entries.remove(index))
    }

    /// Takes a value and reads it. `None`: it is not there, or a problem has been recorded.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'i>) -> Result<T, Diagnostic>,
    ) -> Option<Spanned<T>> {
        let value = self.value(key)?;
        let span = value.span();
        self.problems.keep(read(value)).map(|value| Spanned::new(span, value))
    }

    /// The same for a key without which the table makes no sense.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(Value<'i>) -> Result<T, Diagnostic>,
    ) -> Option<Spanned<T>> {
        if !self.has(key) {
            let message = format!("`{key}` is missing in {}", self.place);
            let hint = format!("add `{example}`");
            self.problems.add(Diagnostic::new(self.span(), message).hint(hint));
        }
        self.take(key, read)
    }

    /// Takes `[key]`.
    pub(super) fn table(&mut self, key: &'static str, place: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        self.problems.keep(into_table(value, place, self.problems))
    }

    /// Takes every `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str, place: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let span = value.span();
        let DeValue::Array(members) = value.into_inner() else {
            let message = format!("`{key}` is a list of tables");
            let hint = format!("write `{place}` with two pairs of brackets");
            self.problems.add(Diagnostic::new(span, message).hint(hint));
            return Vec::new();
        };
        members
            .into_iter()
            .filter_map(|member| self.problems.keep(into_table(member, place, self.problems)))
            .collect()
    }

    /// Takes all keys that are still there, with their values: of a table that has keys of the
    /// user's own.
    pub(super) fn entries(&mut self) -> Vec<(Spanned<String>, Value<'i>)> {
        let taken = std::mem::take(&mut self.entries).into_iter();
        taken
            .map(|(key, value)| (Spanned::new(key.span(), key.into_inner().into_owned()), value))
            .collect()
    }

    /// Takes the keys that are still there and are like this, in the order of the text.
    pub(super) fn take_keys(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<Spanned<String>> {
        let taken = self.entries.extract_if(.., |(key, _)| wanted(key.get_ref()));
        taken.map(|(key, _)| Spanned::new(key.span(), key.into_inner().into_owned())).collect()
    }

    /// Reports the keys that were not asked for.
    pub(super) fn finish(mut self) {
        for key in self.take_keys(|_| true) {
            let hint = did_you_mean_or_list(
                key.get_ref(),
                self.known.iter().copied(),
                &format!("keys of {}", self.place),
                "leave it out",
            );
            let message = format!("unknown key `{}` in {}", key.get_ref(), self.place);
            self.problems.add(Diagnostic::new(key.span(), message).hint(hint));
        }
    }
}

/// Reads a value as a table.
pub(super) fn into_table<'i, 'p>(
    value: Value<'i>,
    place: &'static str,
    problems: &'p Problems,
) -> Result<Table<'i, 'p>, Diagnostic> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Ok(Table::new(place, Spanned::new(span, table), problems)),
        other @ (DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)) => Err(wrong_type(span, "a table", &other)),
    }
}

/// "expected a string, found an integer".
pub(super) fn wrong_type(span: Range<usize>, expected: &str, found: &DeValue<'_>) -> Diagnostic {
    let hint = match (expected, found) {
        // The word itself is right, but for its quotes; or the quotes are one too many.
        ("a string", DeValue::Integer(number)) => format!("put it in quotes: \"{number}\""),
        ("a string", _) => "write one text in quotes".to_owned(),
        ("an integer", DeValue::String(_)) => "write the number without quotes".to_owned(),
        ("a list", _) => "put it in brackets: [ … ]".to_owned(),
        ("a table", _) => {
            "write `{ key = value }`, or a section with its name in brackets".to_owned()
        }
        _ => format!("write {expected}"),
    };
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Diagnostic::new(span, format!("expected {expected}, found {found}"))
        .label(format!("not {expected}"))
        .hint(hint)
}
