//! Tokens → settings: recursive descent, bounded in depth. It stops at the first error,
//! because what follows one would be guesses.

use std::collections::HashSet;

use super::{
    super::source::{Problem, Sources, Span},
    Kind, MAX_DEPTH, Setting, Settings, Value,
    lexer::{Lexer, Token},
};

/// Reads the settings of a file, and of the files that it includes, which are added to
/// `sources`.
///
/// # Errors
/// The first thing that is not libconfig's syntax, or a file that cannot be included.
pub fn parse(sources: &mut Sources, file: usize) -> Result<Settings, Problem> {
    let mut lexer = Lexer::new(sources, file);
    let next = lexer.next()?;
    let mut parser = Parser { lexer, next, depth: 0 };
    let settings = parser.settings()?;
    match parser.next {
        (Token::End, _) => Ok(settings),
        (token, place) => Err(expected("a setting", "`name: value;`", &token, place)),
    }
}

struct Parser<'s> {
    lexer: Lexer<'s>,
    /// The token that is looked at.
    next: (Token, Span),
    /// Groups, lists and arrays that are open.
    depth: usize,
}

impl Parser<'_> {
    /// Takes the token that is looked at.
    fn take(&mut self) -> Result<(Token, Span), Problem> {
        Ok(std::mem::replace(&mut self.next, self.lexer.next()?))
    }

    /// Takes this mark, if it is the next token.
    fn take_mark(&mut self, mark: u8) -> Result<Option<Span>, Problem> {
        if self.next.0 == Token::Mark(mark) { Ok(Some(self.take()?.1)) } else { Ok(None) }
    }

    /// Settings, up to what is not a name.
    fn settings(&mut self) -> Result<Settings, Problem> {
        let mut settings = Settings::default();
        let mut names = HashSet::new();
        while let (Token::Name(name), place) = &self.next {
            let (name, place) = (name.clone(), *place);
            if !names.insert(name.clone()) {
                return Err(Problem::new(place, format!("a second setting is named `{name}`"))
                    .hint("leave one of them out"));
            }
            self.take()?;
            match self.take()? {
                (Token::Equals, _) => {}
                (token, place) => {
                    return Err(expected("`:` or `=`", "`name: value;`", &token, place));
                }
            }
            let value = self.value()?;
            settings.0.push(Setting { name, place, value });
            if self.take_mark(b';')?.is_none() {
                self.take_mark(b',')?;
            }
        }
        Ok(settings)
    }

    fn value(&mut self) -> Result<Value, Problem> {
        let (token, place) = self.take()?;
        let scalar = |kind| Ok(Value { kind, place });
        match token {
            Token::Bool(value) => scalar(Kind::Bool(value)),
            Token::Int { value, long } => scalar(Kind::Int { value, long }),
            Token::Float(value) => scalar(Kind::Float(value)),
            Token::String(text) => self.string(text, place),
            Token::Mark(mark @ (b'{' | b'[' | b'(')) => {
                if self.depth == MAX_DEPTH {
                    return Err(Problem::new(place, "this is nested too deeply")
                        .hint(format!("groups and lists go at most {MAX_DEPTH} deep")));
                }
                self.depth += 1;
                let value = match mark {
                    b'{' => self.group(place),
                    b'[' => self.members(place, b']').and_then(array),
                    _ => self.members(place, b')'),
                };
                self.depth -= 1;
                value
            }
            token @ (Token::Name(_) | Token::Equals | Token::Mark(_) | Token::End) => {
                let hint = "a string in quotes, a number, `true`, `(…)`, `[…]` or `{…}`";
                Err(expected("a value", hint, &token, place))
            }
        }
    }

    /// Adjacent strings are one.
    fn string(&mut self, mut text: Vec<u8>, mut place: Span) -> Result<Value, Problem> {
        while matches!(self.next.0, Token::String(_)) {
            if let (Token::String(more), end) = self.take()? {
                text.extend(more);
                place = place.to(end);
            }
        }
        Ok(Value { kind: Kind::String(text), place })
    }

    fn group(&mut self, start: Span) -> Result<Value, Problem> {
        let settings = self.settings()?;
        let place = start.to(self.close(start, b'}')?);
        Ok(Value { kind: Kind::Group(settings), place })
    }

    /// The members of a list, or of an array, and the mark that closes it.
    fn members(&mut self, start: Span, close: u8) -> Result<Value, Problem> {
        let mut members = Vec::new();
        while self.next.0 != Token::Mark(close) && self.next.0 != Token::End {
            members.push(self.value()?);
            if self.take_mark(b',')?.is_none() {
                break;
            }
        }
        let place = start.to(self.close(start, close)?);
        Ok(Value { kind: Kind::List(members), place })
    }

    fn close(&mut self, open: Span, close: u8) -> Result<Span, Problem> {
        if let Some(place) = self.take_mark(close)? {
            return Ok(place);
        }
        let close = char::from(close);
        let (token, place) = &self.next;
        if *token == Token::End {
            let problem = Problem::new(open, "this is not closed");
            return Err(problem.hint(format!("end it with `{close}`")));
        }
        let (what, hint) = match close {
            '}' => (format!("a setting or `{close}`"), "`name: value;`"),
            _ => (format!("`,` or `{close}`"), "`,` between two members"),
        };
        Err(expected(&what, hint, token, *place))
    }
}

/// A list as an array: scalars of one type.
fn array(list: Value) -> Result<Value, Problem> {
    let Value { kind: Kind::List(members), place } = list else { return Ok(list) };
    let kind = members.first().map(|first| first.kind.name());
    for member in &members {
        if matches!(member.kind, Kind::Array(_) | Kind::List(_) | Kind::Group(_)) {
            let message = format!("{} cannot stand in an array", member.kind.name());
            return Err(Problem::new(member.place, message).hint("write a list, `( … )`"));
        }
        if Some(member.kind.name()) != kind {
            let message = "the members of an array are of one type";
            let label = format!("not {}", kind.unwrap_or_default());
            return Err(Problem::new(member.place, message)
                .label(label)
                .hint("write a list, `( … )`, where they are not"));
        }
    }
    Ok(Value { kind: Kind::Array(members), place })
}

fn expected(what: &str, hint: &str, found: &Token, place: Span) -> Problem {
    let found = match found {
        Token::Name(name) => format!("`{name}`"),
        Token::String(_) => "a string".to_owned(),
        Token::Bool(_) => "a boolean".to_owned(),
        Token::Int { .. } | Token::Float(_) => "a number".to_owned(),
        Token::Equals => "`:` or `=`".to_owned(),
        Token::Mark(mark) => format!("`{}`", char::from(*mark)),
        Token::End => "the end of the file".to_owned(),
    };
    Problem::new(place, format!("expected {what}, found {found}")).hint(format!("write {hint}"))
}
