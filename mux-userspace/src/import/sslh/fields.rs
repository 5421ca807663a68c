//! Takes the settings out of a group, and remarks on the ones nobody asked for.

use super::{
    super::{
        libconfig::{Kind, Setting, Settings},
        log::Log,
        source::{Problem, Span},
    },
    Text,
};

/// Longest quotation of a setting in a comment, characters.
const MAX_QUOTE: usize = 72;

/// A group that is being read: every setting is taken once, then [`Fields::finish`].
pub(super) struct Fields<'t, 'l> {
    place: Span,
    settings: Vec<&'t Setting>,
    log: &'l Log,
    notes: Vec<String>,
}

impl<'t, 'l> Fields<'t, 'l> {
    pub(super) fn new(group: &'t Settings, place: Span, log: &'l Log) -> Self {
        Self { place, settings: group.0.iter().collect(), log, notes: Vec::new() }
    }

    /// Of the group.
    pub(super) const fn place(&self) -> Span {
        self.place
    }

    /// The group as one line, with the settings that have not been taken yet.
    pub(super) fn quote(&self) -> String {
        let settings = self.settings.iter().copied().cloned().collect();
        format!("{{ {} }}", Settings(settings))
    }

    /// Takes a setting. Versions differ in `on-timeout` and `on_timeout`, and the like.
    pub(super) fn take(&mut self, name: &str) -> Option<&'t Setting> {
        let found = self.settings.iter().position(|it| it.name.replace('-', "_") == name)?;
        Some(self.settings.remove(found))
    }

    /// Takes the settings whose names begin like this.
    pub(super) fn take_all(&mut self, prefix: &str) -> Vec<&'t Setting> {
        self.settings.extract_if(.., |setting| setting.name.starts_with(prefix)).collect()
    }

    /// Takes a string; a number is taken for one.
    pub(super) fn string(&mut self, name: &str) -> Option<Text> {
        let setting = self.take(name)?;
        let place = setting.value.place;
        match &setting.value.kind {
            Kind::Int { value, .. } => Some(Text { text: value.to_string(), place }),
            Kind::String(bytes) => match String::from_utf8(bytes.clone()) {
                Ok(text) => Some(Text { text, place }),
                Err(_) => {
                    let message = format!("`{name}` is not UTF-8");
                    self.log.problem(Problem::new(place, message).hint("save the file as UTF-8"));
                    None
                }
            },
            _ => {
                self.ignored(setting, "a string");
                None
            }
        }
    }

    /// The same for a string without which sslh does not start.
    pub(super) fn required(&mut self, name: &str) -> Option<Text> {
        if !self.settings.iter().any(|setting| setting.name == name) {
            let message = format!("this group has no `{name}`");
            let hint = format!("add `{name}: \"…\";`");
            self.log.problem(Problem::new(self.place, message).hint(hint));
        }
        self.string(name)
    }

    /// Takes a boolean; the default of all of sslh's is false.
    pub(super) fn boolean(&mut self, name: &str) -> Option<(bool, &'t Setting)> {
        let setting = self.take(name)?;
        if let Kind::Bool(value) = setting.value.kind {
            return Some((value, setting));
        }
        self.ignored(setting, "a boolean");
        None
    }

    /// Takes a boolean and says whether it is true.
    pub(super) fn is(&mut self, name: &str) -> bool {
        self.boolean(name).is_some_and(|(value, _)| value)
    }

    /// Takes an integer.
    pub(super) fn integer(&mut self, name: &str) -> Option<(i64, &'t Setting)> {
        let setting = self.take(name)?;
        match &setting.value.kind {
            Kind::Int { value, .. } => return Some((*value, setting)),
            Kind::String(text) => {
                // Known from the wild: what was meant is clear.
                let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                if let Some(number) = number {
                    let message = "sslh wants a number here and ignores the string; here it is \
                                   taken for the number";
                    self.warn(setting, message);
                    return Some((number, setting));
                }
            }
            _ => {}
        }
        self.ignored(setting, "an integer");
        None
    }

    /// Takes a limit on connections, 1 to 4,294,967,295.
    pub(super) fn count(&mut self, name: &str) -> Option<u32> {
        let (value, setting) = self.integer(name)?;
        let count = u32::try_from(value).ok().filter(|&count| count > 0);
        if count.is_none() {
            self.warn(setting, "mux has limits from 1 to 4294967295: left out");
        }
        count
    }

    /// Takes an array of strings, of any bytes.
    pub(super) fn strings(&mut self, name: &str) -> Vec<(Vec<u8>, Span)> {
        self.take(name).map(|setting| self.members(setting)).unwrap_or_default()
    }

    /// The strings of an array.
    pub(super) fn members(&mut self, setting: &Setting) -> Vec<(Vec<u8>, Span)> {
        let (Kind::Array(members) | Kind::List(members)) = &setting.value.kind else {
            self.ignored(setting, "an array of strings");
            return Vec::new();
        };
        let mut strings = Vec::new();
        for member in members {
            match &member.kind {
                Kind::String(text) => strings.push((text.clone(), member.place)),
                _ => self.ignored(setting, "an array of strings"),
            }
        }
        strings
    }

    /// Remarks on a setting, in the rules file.
    pub(super) fn note(&mut self, setting: &Setting, remark: &str) {
        self.remark(&format!("sslh's `{}`: {remark}", quoted(setting)));
    }

    /// Remarks on several.
    pub(super) fn remark(&mut self, remark: &str) {
        self.notes.push(remark.to_owned());
    }

    /// Remarks on a setting, in the rules file and on standard error.
    pub(super) fn warn(&mut self, setting: &Setting, remark: &str) {
        self.note(setting, remark);
        self.log.warn(setting.place, format!("`{}`: {remark}", quoted(setting)));
    }

    fn ignored(&mut self, setting: &Setting, wanted: &str) {
        let found = setting.value.kind.name();
        self.warn(setting, &format!("sslh wants {wanted} here and ignores {found}; left out"));
    }

    /// Remarks on the settings that are left; returns all remarks.
    pub(super) fn finish(mut self) -> Vec<String> {
        for setting in std::mem::take(&mut self.settings) {
            self.warn(setting, "not a setting of sslh that mux knows: left out");
        }
        self.notes
    }
}

/// A setting as one line that is not too long.
fn quoted(setting: &Setting) -> String {
    let text = setting.to_string();
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
