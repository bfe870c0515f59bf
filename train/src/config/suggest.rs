//! "Did you mean": the nearest key to one that does not exist.

/// Adds the nearest expected key to serde's message about an unknown one.
pub(super) fn with_suggestion(message: &str) -> String {
    let Some(at) = message.find("unknown field `").or_else(|| message.find("unknown variant `")) else {
        return message.to_owned();
    };
    let mut names = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    match nearest(unknown, names) {
        Some(name) => format!("{}; did you mean `{name}`?", message.trim_end()),
        None => message.to_owned(),
    }
}

/// The candidate with the fewest changed letters, if less than half of them change.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(d, candidate)| 2 * d <= candidate.chars().count().max(word.chars().count()))
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("epoch", "epochs"), 1);
    }

    #[test]
    fn names_the_nearest_key() {
        let message = "unknown field `epoch`, expected one of `batch_size`, `epochs`, `seed`";
        assert!(with_suggestion(message).ends_with("did you mean `epochs`?"));
        let message = "unknown field `zzzzzzzz`, expected `seed`";
        assert_eq!(with_suggestion(message), message);
    }
}
