//! Sentence boundaries as NLTK's Punkt finds them (Kiss and Strunk, 2006), with the parameters it ships for English.
//!
//! A candidate is a `.`, `?` or `!` before white space or closing punctuation. Word types decide: known
//! abbreviations, initials and numbers may keep the sentence open, depending on the word that follows.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use crate::Error;

/// Ways in which a word type was seen in the training text (NLTK's flags).
mod seen {
    pub(super) const MID_UPPER: u32 = 1 << 2;
    pub(super) const UPPER: u32 = 1 << 1 | MID_UPPER | 1 << 3;
    pub(super) const BEGIN_LOWER: u32 = 1 << 4;
    pub(super) const LOWER: u32 = BEGIN_LOWER | 1 << 5 | 1 << 6;
}

const NUMBER: &str = "##number##";

/// Punkt's parameters and the splitter over them.
pub struct Punkt {
    abbreviations: HashSet<String>,
    collocations: HashSet<(String, String)>,
    starters: HashSet<String>,
    orthography: HashMap<String, u32>,
}

impl Punkt {
    /// NLTK's English abbreviations, collocations and sentence starters, without its 20,365 orthographic contexts.
    ///
    /// The contexts only speak after an abbreviation, an initial or a number with a full stop, and only where the
    /// next word is capitalised and no frequent sentence starter; [`Punkt::from_dir`] reads them where exactness
    /// matters there.
    pub fn english() -> Self {
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        Self {
            abbreviations: lines(include_str!("../data/punkt/abbrev_types.txt")),
            collocations: include_str!("../data/punkt/collocations.tab")
                .lines()
                .filter_map(|l| l.split_once('\t'))
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .collect(),
            starters: lines(include_str!("../data/punkt/sent_starters.txt")),
            orthography: HashMap::new(),
        }
    }

    /// Reads a language folder of NLTK's `punkt_tab` (`abbrev_types.txt`, `collocations.tab`, `sent_starters.txt`,
    /// `ortho_context.tab`).
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Format`] for a line without its two columns.
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source })
        };
        let table = |name: &str| -> Result<Vec<(String, String)>, Error> {
            let columns = |(i, line): (usize, &str)| match line.split_once('\t') {
                Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
                None => Err(Error::Format {
                    path: dir.join(name),
                    line: i + 1,
                    reason: "expected two columns separated by a tab".into(),
                }),
            };
            read(name)?.lines().enumerate().map(columns).collect()
        };
        let mut orthography = HashMap::new();
        for (i, (word, flags)) in table("ortho_context.tab")?.into_iter().enumerate() {
            let flags = flags.trim().parse().map_err(|e| Error::Format {
                path: dir.join("ortho_context.tab"),
                line: i + 1,
                reason: format!("\"{flags}\" is no number: {e}"),
            })?;
            orthography.insert(word, flags);
        }
        Ok(Self {
            abbreviations: read("abbrev_types.txt")?.lines().map(str::to_owned).collect(),
            collocations: table("collocations.tab")?.into_iter().collect(),
            starters: read("sent_starters.txt")?.lines().map(str::to_owned).collect(),
            orthography,
        })
    }

    /// The sentences of `text`, without the white space between them.
    pub fn sentences<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut slices: Vec<Range<usize>> = Vec::new();
        let mut start = 0;
        for candidate in candidates(text) {
            if self.is_break(&candidate.context) {
                slices.push(start..candidate.end);
                start = candidate.next;
            }
        }
        slices.push(start..text.trim_end().len().max(start));

        // Closing quotes and brackets right after a boundary belong to the sentence before it.
        let mut sentences = Vec::with_capacity(slices.len());
        let mut skip = 0;
        for (i, slice) in slices.iter().enumerate() {
            let begin = (slice.start + skip).min(slice.end);
            let (closing, with_space) = slices.get(i + 1).map_or((0, 0), |s| closing_run(&text[s.clone()]));
            let end = if closing > 0 { slices[i + 1].start + closing } else { slice.end };
            skip = with_space;
            if begin < end {
                sentences.push(&text[begin..end]);
            }
        }
        sentences
    }

    /// Does a sentence end inside this context (a candidate with what follows it)?
    fn is_break(&self, context: &str) -> bool {
        let mut tokens: Vec<Token> = context.split('\n').flat_map(words).map(|w| self.annotate(w)).collect();
        for i in 0..tokens.len().saturating_sub(1) {
            let (left, right) = tokens.split_at_mut(i + 1);
            self.reconsider(&mut left[i], &right[0]);
            if left[i].breaks {
                return true;
            }
        }
        false
    }

    /// First pass: what the word alone says.
    fn annotate<'t>(&self, text: &'t str) -> Token<'t> {
        let mut token =
            Token { text, kind: word_type(text), breaks: false, abbreviation: false, ellipsis: false };
        if matches!(text, "." | "?" | "!") {
            token.breaks = true;
        } else if text.len() >= 2 && text.bytes().all(|b| b == b'.') {
            token.ellipsis = true;
        } else if let Some(stem) = text.strip_suffix('.').filter(|s| !s.ends_with('.')) {
            let stem = stem.to_lowercase();
            let last_part = stem.rsplit('-').next().unwrap_or_default();
            if self.abbreviations.contains(&stem) || self.abbreviations.contains(last_part) {
                token.abbreviation = true;
            } else {
                token.breaks = true;
            }
        }
        token
    }

    /// Second pass: what the next word says.
    fn reconsider(&self, token: &mut Token, next: &Token) {
        if !token.text.ends_with('.') {
            return;
        }
        let kind = token.kind_without_period().to_owned();
        let next_kind = if next.breaks { next.kind_without_period() } else { &next.kind }.to_owned();
        let next_upper = next.text.starts_with(char::is_uppercase);
        let initial = is_initial(token.text);
        if self.collocations.contains(&(kind.clone(), next_kind.clone())) {
            token.breaks = false;
            token.abbreviation = true;
            return;
        }
        let starts = self.starts_sentence(next.text, &next_kind);
        if (token.abbreviation || token.ellipsis)
            && !initial
            && (starts == Some(true) || next_upper && self.starters.contains(&next_kind))
        {
            token.breaks = true;
            return;
        }
        if initial || kind == NUMBER {
            let never_lower = self.orthography.get(&next_kind).is_none_or(|flags| flags & seen::LOWER == 0);
            if starts == Some(false) || starts.is_none() && initial && next_upper && never_lower {
                token.breaks = false;
                token.abbreviation = true;
            }
        }
    }

    /// The orthographic heuristic; `None` is Punkt's "unknown".
    fn starts_sentence(&self, word: &str, kind: &str) -> Option<bool> {
        if matches!(word, ";" | ":" | "," | "." | "!" | "?") {
            return Some(false);
        }
        let flags = self.orthography.get(kind).copied().unwrap_or(0);
        let first = word.chars().next()?;
        if first.is_uppercase() && flags & seen::LOWER != 0 && flags & seen::MID_UPPER == 0 {
            Some(true)
        } else if first.is_lowercase() && (flags & seen::UPPER != 0 || flags & seen::BEGIN_LOWER == 0) {
            Some(false)
        } else {
            None
        }
    }
}

struct Token<'t> {
    text: &'t str,
    kind: String,
    breaks: bool,
    abbreviation: bool,
    ellipsis: bool,
}

impl Token<'_> {
    fn kind_without_period(&self) -> &str {
        if self.kind.len() > 1 { self.kind.strip_suffix('.').unwrap_or(&self.kind) } else { &self.kind }
    }
}

/// The word in lower case, all numbers made one.
fn word_type(word: &str) -> String {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let digits = digits.strip_prefix(['.', ',']).unwrap_or(digits);
    let number = digits.starts_with(|c: char| c.is_numeric())
        && digits.chars().all(|c| c.is_numeric() || matches!(c, ',' | '.' | '-'));
    if number { NUMBER.to_owned() } else { word.to_lowercase() }
}

/// One letter and a full stop.
fn is_initial(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.as_str() == "."
}

struct Candidate {
    /// Byte after the punctuation mark.
    end: usize,
    /// Where the next sentence would begin.
    next: usize,
    /// The word with the mark, and what follows.
    context: String,
}

/// At most one candidate per run without white space: its last mark that something may follow.
fn candidates(text: &str) -> Vec<Candidate> {
    let runs: Vec<Range<usize>> = runs(text);
    let mut found = Vec::new();
    for (r, run) in runs.iter().enumerate() {
        let word = &text[run.clone()];
        let last = word.char_indices().rev().find_map(|(i, c)| {
            if !matches!(c, '.' | '?' | '!') {
                return None;
            }
            let end = run.start + i + 1;
            match text[end..run.end].chars().next() {
                Some(after) if ends_word(after) => {
                    let context = text[run.start..end + after.len_utf8()].to_owned();
                    Some(Candidate { end, next: end, context })
                }
                Some(_) => None,
                None => runs.get(r + 1).map(|next| Candidate {
                    end,
                    next: next.start,
                    context: text[run.start..next.end].to_owned(),
                }),
            }
        });
        found.extend(last);
    }
    found
}

/// Maximal runs without white space.
fn runs(text: &str) -> Vec<Range<usize>> {
    let base = text.as_ptr() as usize;
    text.split_whitespace()
        .map(|w| {
            let start = w.as_ptr() as usize - base;
            start..start + w.len()
        })
        .collect()
}

/// Punctuation that never stands inside a word.
fn ends_word(c: char) -> bool {
    matches!(c, '?' | '!' | ')' | '"' | ';' | '}' | ']' | '*' | ':' | '@' | '\'' | '(' | '{' | '[')
}

/// Length of the closing quotes and brackets at the start of a sentence, without and with the white space after
/// them; zeros unless white space, a dash or the end follows.
fn closing_run(sentence: &str) -> (usize, usize) {
    let rest = sentence.trim_start_matches(['"', '\'', ')', ']', '}']);
    let closing = sentence.len() - rest.len();
    let after = rest.trim_start();
    if closing > 0 && (rest.is_empty() || rest.len() > after.len() || rest.starts_with("--")) {
        (closing, sentence.len() - after.len())
    } else {
        (0, 0)
    }
}

/// Punkt's own word tokenizer over one line: words, runs of dashes or dots, single marks.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let mut length = dashes_or_dots(rest);
        if length == 0 {
            length = first.len_utf8();
            if !matches!(
                first,
                '(' | '"' | '`' | '{' | '[' | ':' | ';' | '&' | '#' | '*' | '@' | ')' | '}' | ']' | '-' | ','
            ) {
                while !word_ends(&rest[length..]) {
                    length += rest[length..].chars().next().map_or(0, char::len_utf8);
                }
            }
        }
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

fn word_ends(rest: &str) -> bool {
    let ends =
        |s: &str| s.chars().next().is_none_or(|c| c.is_whitespace() || ends_word(c)) || dashes_or_dots(s) > 0;
    ends(rest) || rest.strip_prefix(',').is_some_and(ends)
}

/// Bytes of `--…`, `..…` or `. . .` at the start; 0 if there is none.
fn dashes_or_dots(text: &str) -> usize {
    for mark in ['-', '.'] {
        let run = text.len() - text.trim_start_matches(mark).len();
        if run >= 2 {
            return run;
        }
    }
    let (mut length, mut dots) = (0, 0);
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        dots += 1;
        length = text.len() - after.len();
        match after.chars().next() {
            Some(c) if c.is_whitespace() => rest = &after[c.len_utf8()..],
            _ => break,
        }
    }
    if dots >= 3 { length } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::Punkt;

    #[test]
    fn sentences_follow_abbreviations_numbers_and_brackets() {
        let punkt = Punkt::english();
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("   ", &[]),
            ("Normal chest.", &["Normal chest."]),
            ("No effusion. Heart normal.", &["No effusion.", "Heart normal."]),
            ("Seen by Dr. Smith today. Stable.", &["Seen by Dr. Smith today.", "Stable."]),
            ("(Old study.) New study.", &["(Old study.)", "New study."]),
            ("Is it new? Yes! Fine", &["Is it new?", "Yes!", "Fine"]),
            ("Measures 3.5 cm.No change", &["Measures 3.5 cm.No change"]),
        ];
        for (text, expected) in cases {
            assert_eq!(punkt.sentences(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_folder_of_parameters_adds_orthographic_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/punkt");
        for name in ["abbrev_types.txt", "collocations.tab", "sent_starters.txt"] {
            std::fs::copy(shipped.join(name), dir.path().join(name)).unwrap();
        }
        let missing = Punkt::from_dir(dir.path()).err().unwrap().to_string();
        assert!(missing.contains("ortho_context.tab"), "{missing}");
        let contexts = dir.path().join("ortho_context.tab");
        std::fs::write(&contexts, "lungs 5\n").unwrap();
        let malformed = Punkt::from_dir(dir.path()).err().unwrap().to_string();
        assert!(malformed.contains("line 1: expected two columns"), "{malformed}");
        // Seen in lower case, never in upper case inside a sentence: a capital then starts one.
        std::fs::write(&contexts, "lungs\t32\n").unwrap();
        let text = "Taken at 10 a.m. Lungs clear.";
        assert_eq!(Punkt::from_dir(dir.path()).unwrap().sentences(text).len(), 2);
        assert_eq!(Punkt::english().sentences(text).len(), 1);
    }
}
