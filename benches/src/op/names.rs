//! Names of operations, and what was meant by another.

use engine::ops::NAMES;
use train::config::suggest::nearest;

/// Whether `bench op` takes the name: an operation, `linear` for the matrix product of a layer, or `all`.
pub fn valid(name: &str) -> bool {
    NAMES.contains(&name) || ["all", "linear"].contains(&name)
}

/// An error text for an unknown name: the nearest name, and the list.
pub fn suggestion(name: &str) -> String {
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    // Names are short; no more letters than that are a misspelling.
    let short = (name.len() < 64).then_some(name);
    let near = short.and_then(|name| nearest(name, names.iter().copied()));
    let meant = near.map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
    format!("no operation is called `{name}`{meant} Operations: {}; or `all`", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant() {
        assert!(valid("attention") && valid("all") && valid("linear") && !valid("Attention"));
        let text = suggestion("atention");
        assert!(text.contains("did you mean `attention`") && text.contains("rms_norm"), "{text}");
        assert!(suggestion("rmsnorm").contains("`rms_norm`?"));
        assert!(!suggestion("photosynthesis").contains("did you mean"));
        assert!(suggestion(&"x".repeat(1 << 20)).len() < (1 << 20) + 2000);
    }
}
