//! Synonyms for METEOR, from `WordNet` 3.0's own files.
//!
//! The data are not part of this project. Debian's `wordnet-base` installs them in `/usr/share/wordnet`; the files
//! read are `index.<pos>`, `data.<pos>` and `<pos>.exc` for noun, verb, adj and adv. `WordNet` 3.1 has other synsets
//! and gives other scores.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::Error;

/// Where METEOR's third stage asks for related words.
pub trait Synonyms {
    /// All words that share a synset with `word`; empty if it is unknown.
    fn related(&self, word: &str) -> HashSet<String>;
}

/// No synonyms: METEOR with exact and stem matches only. Its score is a lower bound of nltk's in practice and must
/// not be compared with one made with `WordNet`.
pub struct NoSynonyms;

impl Synonyms for NoSynonyms {
    fn related(&self, _: &str) -> HashSet<String> {
        HashSet::new()
    }
}

impl<S: Synonyms + ?Sized> Synonyms for Box<S> {
    fn related(&self, word: &str) -> HashSet<String> {
        (**self).related(word)
    }
}

/// Endings that the base form may have instead (morphy's detachment rules).
type Endings = &'static [(&'static str, &'static str)];

const PARTS_OF_SPEECH: [(&str, Endings); 4] = [
    (
        "noun",
        &[
            ("s", ""),
            ("ses", "s"),
            ("ves", "f"),
            ("xes", "x"),
            ("zes", "z"),
            ("ches", "ch"),
            ("shes", "sh"),
            ("men", "man"),
            ("ies", "y"),
        ],
    ),
    (
        "verb",
        &[
            ("s", ""),
            ("ies", "y"),
            ("es", "e"),
            ("es", ""),
            ("ed", "e"),
            ("ed", ""),
            ("ing", "e"),
            ("ing", ""),
        ],
    ),
    ("adj", &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")]),
    ("adv", &[]),
];

/// One part of speech.
struct Part {
    endings: Endings,
    /// Lemma to the offsets of its synsets.
    index: HashMap<String, Vec<u32>>,
    /// Irregular form to base forms.
    exceptions: HashMap<String, Vec<String>>,
    /// Offset to the single-word lemmas of that synset.
    synsets: HashMap<u32, Vec<String>>,
}

/// `WordNet` in memory (about 30 MB of text becomes about as much in tables).
pub struct WordNet {
    parts: Vec<Part>,
}

impl WordNet {
    /// Reads the twelve files of a `WordNet` 3.0 folder.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::Format`] for a line that does not follow wndb(5WN).
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let part = |&(name, endings): &(&str, Endings)| {
            Ok(Part {
                endings,
                index: parse(dir.join(format!("index.{name}")), index_line)?,
                exceptions: parse(dir.join(format!("{name}.exc")), exception_line)?,
                synsets: parse(dir.join(format!("data.{name}")), data_line)?,
            })
        };
        Ok(Self { parts: PARTS_OF_SPEECH.iter().map(part).collect::<Result<_, Error>>()? })
    }
}

impl Synonyms for WordNet {
    fn related(&self, word: &str) -> HashSet<String> {
        let word = word.to_lowercase();
        let mut found = HashSet::new();
        for part in &self.parts {
            let mut forms = vec![word.clone()];
            if let Some(bases) = part.exceptions.get(&word) {
                forms.extend_from_slice(bases);
            } else {
                let cut =
                    |(old, new): &(&str, &str)| word.strip_suffix(old).map(|stem| format!("{stem}{new}"));
                forms.extend(part.endings.iter().filter_map(cut));
            }
            for offset in forms.iter().filter_map(|f| part.index.get(f)).flatten() {
                found.extend(part.synsets.get(offset).into_iter().flatten().cloned());
            }
        }
        found
    }
}

/// Reads a file of one entry a line. The licence at the head of the files is indented and is skipped.
fn parse<K: Eq + std::hash::Hash, V>(
    path: PathBuf,
    entry: fn(&mut std::str::SplitAsciiWhitespace) -> Option<(K, V)>,
) -> Result<HashMap<K, V>, Error> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(Error::Io { path, source }),
    };
    let mut map = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("  ") || line.trim().is_empty() {
            continue;
        }
        let Some((key, value)) = entry(&mut line.split_ascii_whitespace()) else {
            let reason = "not an entry of a WordNet 3.0 file (see wndb(5WN))".to_owned();
            return Err(Error::Format { path, line: i + 1, reason });
        };
        map.insert(key, value);
    }
    Ok(map)
}

/// `lemma pos synset_count pointer_count pointer… sense_count tagged_count offset…`
fn index_line(fields: &mut std::str::SplitAsciiWhitespace) -> Option<(String, Vec<u32>)> {
    let lemma = fields.next()?.to_owned();
    let count: usize = fields.nth(1)?.parse().ok()?;
    let pointers: usize = fields.next()?.parse().ok()?;
    let offsets: Vec<u32> = fields.skip(pointers + 2).map(str::parse).collect::<Result<_, _>>().ok()?;
    (offsets.len() == count).then_some((lemma, offsets))
}

/// `offset file type word_count(hex) (word lexical_id)… …`; a word may end in a marker such as `(p)`.
fn data_line(fields: &mut std::str::SplitAsciiWhitespace) -> Option<(u32, Vec<String>)> {
    let offset = fields.next()?.parse().ok()?;
    let count = usize::from_str_radix(fields.nth(2)?, 16).ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        let word = fields.next()?;
        fields.next()?;
        let word = word.split_once('(').map_or(word, |(bare, _)| bare);
        if !word.contains('_') {
            words.push(word.to_owned());
        }
    }
    Some((offset, words))
}

fn exception_line(fields: &mut std::str::SplitAsciiWhitespace) -> Option<(String, Vec<String>)> {
    Some((fields.next()?.to_owned(), fields.map(str::to_owned).collect()))
}
