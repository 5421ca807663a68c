//! What is wrong with a rules file, where, and what to do about it.

use std::{fmt, ops::Range, path::Path};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// Whether a file with such a diagnostic can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    #[default]
    Error,
    /// It can, but may not do what is meant.
    Warning,
}

/// One thing that is wrong with a rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How wrong.
    pub severity: Severity,
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
    /// Where, in bytes of the text.
    pub span: Range<usize>,
    /// What stands beside the caret; may be empty.
    pub label: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error without label and hint.
    #[must_use]
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        let severity = Severity::Error;
        Self { severity, message: message.into(), span, label: String::new(), hint: None }
    }

    /// A warning without label and hint.
    #[must_use]
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::new(span, message) }
    }

    /// The same with a text beside the caret.
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// A diagnostic without the text that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
    /// Where; `None`: the file as a whole.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// More of what is wrong there.
    pub label: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// All of it in one line, for logs: `path:line:column: message: label (hint: …)`.
    #[must_use]
    pub fn line(&self, path: &Path) -> String {
        let Self { message, place, label, hint } = self;
        let mut line = path.display().to_string();
        if let Some(Place { line: number, column }) = place {
            line.push_str(&format!(":{number}:{column}"));
        }
        line.push_str(&format!(": {message}"));
        if let Some(label) = label {
            line.push_str(&format!(": {label}"));
        }
        if let Some(hint) = hint {
            line.push_str(&format!(" (hint: {hint})"));
        }
        line
    }
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// How a report looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Text alone, for files, pipes and journals.
    #[default]
    Plain,
    /// With ANSI colours, for terminals.
    Coloured,
}

/// All that is wrong with a rules file, and the text it is wrong in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    name: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Puts the diagnostics in the order of the text.
    pub(crate) fn new(name: &str, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        Self { name: name.to_owned(), text: text.to_owned(), diagnostics }
    }

    /// What is wrong, in the order of the text; never empty in a [`LoadError`](super::LoadError).
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The whole report, for people: of each diagnostic the message, `file:line:column`,
    /// the line, a caret and the hint.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let rendered: Vec<String> = self
            .diagnostics
            .iter()
            .map(|diagnostic| self.render_one(diagnostic, &renderer))
            .collect();
        rendered.join("\n\n")
    }

    fn render_one(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let Diagnostic { severity, message, span, label, hint } = diagnostic;
        let span = self.drawable(span);
        let annotation = AnnotationKind::Primary.span(span);
        let annotation =
            if label.is_empty() { annotation } else { annotation.label(label.as_str()) };
        let snippet =
            Snippet::source(self.text.as_str()).path(self.name.as_str()).annotation(annotation);
        let level = match severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(message.as_str()).element(snippet);
        if let Some(hint) = hint {
            group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
        }
        renderer.render(&[group])
    }

    /// The same as data, for programs and for logs.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.diagnostics.iter().map(|diagnostic| self.problem(diagnostic)).collect()
    }

    fn problem(&self, diagnostic: &Diagnostic) -> Problem {
        let Diagnostic { severity: _, message, span, label, hint } = diagnostic;
        let before = &self.text[..self.drawable(span).start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Problem {
            message: message.clone(),
            place: Some(Place {
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
            }),
            label: (!label.is_empty()).then(|| label.clone()),
            hint: hint.clone(),
        }
    }

    /// The part of a span that can be drawn: inside the text, on whole characters, and on
    /// one line, because a caret under a whole table says less than one under its head.
    fn drawable(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end.max(start));
        let line = self.text[start..end].find(['\n', '\r']).map_or(end, |length| start + length);
        start..line
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

#[cfg(test)]
mod tests {
    use super::{Diagnostic, Place, Report, Style};

    #[test]
    fn a_report_has_position_line_caret_and_hint() {
        let report = Report::new(
            "rules.toml",
            "a = 1\nb = \"zwei\"\n",
            vec![Diagnostic::new(10..16, "`b` is a number").label("not one").hint("write 2")],
        );
        assert_eq!(
            report.to_string(),
            r#"error: `b` is a number
 --> rules.toml:2:5
  |
2 | b = "zwei"
  |     ^^^^^^ not one
  |
  = hint: write 2"#
        );
    }

    #[test]
    fn a_warning_says_so_and_has_a_place() {
        let warning = Diagnostic::warning(7..8, "odd").label("this").hint("look");
        let report = Report::new("x", "ä = 1\nü = b", vec![warning]);
        assert!(report.to_string().starts_with("warning: odd\n --> x:2:1\n"), "{report}");
        let [problem] = &report.problems()[..] else { panic!() };
        assert_eq!(problem.place, Some(Place { line: 2, column: 1 }));
        assert_eq!(
            (problem.label.as_deref(), problem.hint.as_deref()),
            (Some("this"), Some("look"))
        );
    }

    #[test]
    fn spans_outside_the_text_are_drawn_all_the_same() {
        let text = "ä = 1\r\n\r\nb = 2";
        for start in 0..=text.len() + 3 {
            for end in 0..=text.len() + 3 {
                let report = Report::new("x", text, vec![Diagnostic::new(start..end, "m")]);
                assert!(report.render(Style::Plain).contains("x:"), "{start}..{end}");
                assert!(report.render(Style::Coloured).contains('m'), "{start}..{end}");
            }
        }
    }
}
