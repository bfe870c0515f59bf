//! Lists of labels as MultiCaRe writes them.

/// Labels of a cell: a Python list written as text (`['x_ray', "thorax"]`), names divided by `;`, `|` or `,`, or one
/// name. Quotes inside a name are undone as Python's `repr` makes them.
pub fn parse(cell: &str) -> Vec<String> {
    let cell = cell.trim();
    let inner = cell
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .or_else(|| cell.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')))
        .unwrap_or(cell);
    let mut labels = Vec::new();
    let mut label = String::new();
    let mut quote: Option<char> = None;
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some(_)) => label.extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            // A quote opens only where a name begins: `O'Brien` has none.
            ('\'' | '"', None) if label.trim().is_empty() => quote = Some(c),
            (',' | ';' | '|', None) => push(&mut labels, &mut label),
            (c, _) => label.push(c),
        }
    }
    push(&mut labels, &mut label);
    labels
}

fn push(labels: &mut Vec<String>, label: &mut String) {
    let name = label.trim();
    if !name.is_empty() && !["nan", "none", "null"].iter().any(|no| name.eq_ignore_ascii_case(no)) {
        labels.push(name.to_owned());
    }
    label.clear();
}

/// Labels of several cells, each once, where it first occurs.
pub(super) fn merge<'c>(cells: impl Iterator<Item = &'c str>) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for label in cells.flat_map(parse) {
        if !labels.iter().any(|known| known.eq_ignore_ascii_case(&label)) {
            labels.push(label);
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_in_every_spelling() {
        for (cell, want) in [
            ("['x_ray', 'thorax']", vec!["x_ray", "thorax"]),
            (r#"["chest", 'O\'Brien, sign']"#, vec!["chest", "O'Brien, sign"]),
            ("radiology; ct", vec!["radiology", "ct"]),
            ("a|b,c", vec!["a", "b", "c"]),
            ("frontal", vec!["frontal"]),
            ("O'Brien", vec!["O'Brien"]),
            ("[]", vec![]),
            ("", vec![]),
            ("nan", vec![]),
            ("[None, 'x']", vec!["x"]),
            ("['never closed", vec!["['never closed"]),
        ] {
            assert_eq!(parse(cell), want, "{cell}");
        }
        let merged = merge(["['x_ray', 'x_ray']", "thorax", "X_RAY"].into_iter());
        assert_eq!(merged, ["x_ray", "thorax"]);
    }

    proptest! {
        /// What Python's `repr` of a list of names gives is read back.
        #[test]
        fn a_list_as_python_writes_it(names in prop::collection::vec("[a-z_'\"\\\\,;| ]{0,8}[a-z]", 0..6)) {
            let repr = |name: &String| {
                let name = name.replace('\\', "\\\\");
                let double = name.contains('\'') && !name.contains('"');
                if double { format!("\"{name}\"") } else { format!("'{}'", name.replace('\'', "\\'")) }
            };
            let cell = format!("[{}]", names.iter().map(repr).collect::<Vec<_>>().join(", "));
            let want: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
            prop_assert_eq!(parse(&cell), want);
        }

        #[test]
        fn no_text_breaks_it(cell in ".{0,40}") {
            for label in parse(&cell) {
                prop_assert!(!label.trim().is_empty());
            }
        }
    }
}
