//! "Did you mean …?"

/// A hint that names the candidate most like `word`, if one is like it.
pub(super) fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    // A third of the letters may be wrong: with more, the guess would be as good as any.
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// The same, or else a list of all candidates, or else `none`.
pub(crate) fn did_you_mean_or_list<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
    list: &str,
    none: &str,
) -> String {
    if let Some(hint) = did_you_mean(word, candidates.clone()) {
        return hint;
    }
    let all: Vec<String> = candidates.into_iter().map(|name| format!("`{name}`")).collect();
    if all.is_empty() { none.to_owned() } else { format!("{list}: {}", all.join(", ")) }
}

/// Letters to change, add, drop or swap with their neighbour (optimal string alignment),
/// not counting case and not telling `-` from `_`.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        let letters = text.chars().map(|c| if c == '-' { '_' } else { c });
        letters.flat_map(char::to_lowercase).collect()
    };
    let (a, b) = (fold(a), fold(b));
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{did_you_mean, distance};

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("tls", "tls", 0),
            ("upstrem", "upstream", 1),
            ("upstraem", "upstream", 1),
            ("sniff-limit", "sniff_limit", 0),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_what_is_like_it_is_suggested() {
        let names = ["web", "ssh", "mail"];
        assert_eq!(did_you_mean("wbe", names), Some("did you mean `web`?".into()));
        assert_eq!(did_you_mean("SSH", names), Some("did you mean `ssh`?".into()));
        assert_eq!(did_you_mean("redis", names), None);
    }
}
