//! Configuration files from templates: `{{key}}` becomes its value, and nothing may be left over.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

/// Values by key.
pub(crate) type Values = BTreeMap<&'static str, String>;

/// Fills a template.
///
/// # Errors
/// It has a key without a value, or a value is not asked for: one of the two is misspelt.
pub(crate) fn fill(template: &str, values: &Values) -> Result<String> {
    let mut text = String::new();
    let mut rest = template;
    let mut used = Vec::new();
    while let Some((before, after)) = rest.split_once("{{") {
        let (key, after) = after.split_once("}}").context("a `{{` without `}}`")?;
        let (key, value) =
            values.get_key_value(key).with_context(|| format!("no value for `{key}`"))?;
        text.push_str(before);
        text.push_str(value);
        used.push(*key);
        rest = after;
    }
    text.push_str(rest);
    let unused: Vec<_> = values.keys().filter(|key| !used.contains(key)).collect();
    ensure!(unused.is_empty(), "the template does not ask for {unused:?}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_filled_and_every_value_is_used() {
        let values = Values::from([("port", "80".to_owned())]);
        assert_eq!(fill("a {{port}} b {{port}}", &values).unwrap(), "a 80 b 80");
        assert!(fill("{{host}}", &values).unwrap_err().to_string().contains("host"));
        assert!(fill("nothing", &values).unwrap_err().to_string().contains("port"));
        assert!(fill("{{port", &values).is_err());
    }
}
