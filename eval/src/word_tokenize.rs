//! nltk's `word_tokenize`: Punkt sentences, then the Treebank rules with NLTK's improvements.
//!
//! Only the full stop that ends a sentence is split off; `x_ray`, `X-ray` and `3.5` stay whole; a straight double
//! quote becomes ` `` ` or `''`. Case is kept.

use std::sync::LazyLock;

use regex::Regex;

use crate::punkt::Punkt;

type Rules = Vec<(Regex, &'static str)>;

fn compile(rules: &[(&str, &'static str)]) -> Rules {
    rules.iter().map(|&(p, w)| (Regex::new(p).expect("the pattern is a constant"), w)).collect()
}

/// Up to the quote that opens a word, which needs to look behind and is [`split_opening_apostrophe`].
static OPENING: LazyLock<Rules> = LazyLock::new(|| {
    compile(&[("[«“‘„]|`+", " $0 "), ("^\"", "``"), ("``", " $0 "), (r#"([ (\[{<])("|'')"#, "$1 `` ")])
});

static PUNCTUATION: LazyLock<Rules> = LazyLock::new(|| {
    compile(&[
        (r#"([^.])(\.)([\])}>"'»”’ ]*)\s*\z"#, "$1 $2 $3 "),
        (r"([:,])([^\d])", " $1 $2"),
        (r"([:,])\z", " $1 "),
        (r"\.{2,}", " $0 "),
        ("[;@#$%&]", " $0 "),
        (r"[\u{2012}-\u{2015}]", " $0 "),
        (r#"([^.])(\.)([\])}>"']*)\s*\z"#, "$1 $2$3 "),
        ("[?!]", " $0 "),
        ("([^'])' ", "$1 ' "),
        (r"\*", " $0 "),
        (r"[\]\[(){}<>]", " $0 "),
        ("--", " -- "),
    ])
});

static CLOSING: LazyLock<Rules> = LazyLock::new(|| {
    compile(&[
        ("[»”’]", " $0 "),
        ("''", " '' "),
        ("\"", " '' "),
        (r"\s+", " "),
        ("([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
        ("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
        (r"(?i)\b(can)(not)\b", " $1 $2 "),
        (r"(?i)\b(d)('ye)\b", " $1 $2 "),
        (r"(?i)\b(gim)(me)\b", " $1 $2 "),
        (r"(?i)\b(gon)(na)\b", " $1 $2 "),
        (r"(?i)\b(got)(ta)\b", " $1 $2 "),
        (r"(?i)\b(lem)(me)\b", " $1 $2 "),
        (r"(?i)\b(more)('n)\b", " $1 $2 "),
        (r"(?i)\b(wan)(na)\s", " $1 $2  "),
        (r"(?i) ('t)(is)\b", " $1 $2 "),
        (r"(?i) ('t)(was)\b", " $1 $2 "),
    ])
});

/// Tokens of a text: sentences by `punkt`, each split by the Treebank rules.
pub fn word_tokenize(punkt: &Punkt, text: &str) -> Vec<String> {
    punkt.sentences(text).into_iter().flat_map(treebank).collect()
}

/// Tokens of one sentence.
pub fn treebank(sentence: &str) -> Vec<String> {
    let apply = |text: String, rules: &Rules| {
        rules.iter().fold(text, |t, (pattern, with)| pattern.replace_all(&t, *with).into_owned())
    };
    let text = apply(sentence.to_owned(), &OPENING);
    let text = apply(split_opening_apostrophe(&text), &PUNCTUATION);
    let text = apply(format!(" {text} "), &CLOSING);
    text.split_whitespace().map(str::to_owned).collect()
}

/// A space after every `'` that opens a word, unless the word is a clitic such as `'ll`.
fn split_opening_apostrophe(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut previous = None;
    for (i, c) in text.char_indices() {
        out.push(c);
        if c == '\'' && !previous.is_some_and(is_word) {
            let rest = &text[i + 1..];
            let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
            let clitic =
                ["re", "ve", "ll", "m", "t", "s", "d", "n"].iter().any(|k| word.eq_ignore_ascii_case(k));
            if !word.is_empty() && !clitic {
                out.push(' ');
            }
        }
        previous = Some(c);
    }
    out
}
