//! A line of the daemon's access log.

use anyhow::{Context, Result};
use serde_json::Value;

/// A line, parsed.
#[derive(Clone, Debug)]
pub struct Access(Value);

impl Access {
    /// Parses a line.
    ///
    /// # Errors
    /// It is not one JSON object.
    pub fn parse(line: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("an access line: {line}"))?;
        value.is_object().then_some(Self(value)).context("an access line that is no object")
    }

    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// Who connected.
    #[must_use]
    pub fn client(&self) -> &str {
        self.text("client")
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// Who connected, where that is not the client; empty otherwise.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.text("peer")
    }

    /// What the client's PROXY header told; null if there was none.
    #[must_use]
    pub fn proxy(&self) -> &Value {
        &self.0["proxy"]
    }

    /// The rule's name; empty if none took the connection.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.text("rule")
    }

    /// Why that rule.
    #[must_use]
    pub fn why(&self) -> &str {
        self.text("why")
    }

    /// The group, or the address, that the flow went to.
    #[must_use]
    pub fn upstream(&self) -> &str {
        self.text("upstream")
    }

    /// The endpoint that was connected to.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.text("endpoint")
    }

    /// The relay in force at the end.
    #[must_use]
    pub fn relay(&self) -> &str {
        self.text("relay")
    }

    /// Why not a faster one.
    #[must_use]
    pub fn note(&self) -> &str {
        self.text("relay_note")
    }

    /// Why it ended.
    #[must_use]
    pub fn close(&self) -> &str {
        self.text("close")
    }

    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> &str {
        self.text("error")
    }

    /// A field that is a number: `promotions`, `demotions`, `passes`, `carried`, `trimmed`.
    ///
    /// # Panics
    /// The line has no such number.
    #[must_use]
    pub fn number(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {}", self.0))
    }

    /// Bytes to the upstream and to the client.
    ///
    /// # Panics
    /// The line has none.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let number = |key: &str| self.0[key].as_u64().expect("a number of bytes");
        (number("bytes_up"), number("bytes_down"))
    }

    /// How long it lasted, milliseconds.
    #[must_use]
    pub fn duration_ms(&self) -> f64 {
        self.0["duration_ms"].as_f64().unwrap_or(-1.0)
    }
}
