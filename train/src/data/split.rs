//! Training, validation and test rows: by a field, by lists of ids, or drawn by group; and the checks that
//! nothing of one part is in another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;

use super::Case;
use super::batch::stream;
use crate::config::{DataSection, SplitShares};
use crate::error::{Error, Result};

/// To which part of the data a row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Split {
    /// Trained on.
    Train,
    /// Watched during training.
    Validation,
    /// Kept for the end.
    Test,
}

impl Split {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// As it stands in a row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "val",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who says to which part a row belongs.
pub(super) enum Parts {
    /// A field of the row.
    Field(String),
    /// Lists of ids.
    Listed(HashMap<String, Split>),
    /// Nobody yet: [`draw`] will.
    Drawn,
}

impl Parts {
    pub(super) fn new(section: &DataSection) -> Result<Self> {
        if section.split.is_some() {
            return Ok(Self::Drawn);
        }
        let Some(lists) = &section.lists else { return Ok(Self::Field(section.split_field.clone())) };
        let mut parts = HashMap::new();
        let files = [
            (Some(&lists.train), Split::Train),
            (lists.validation.as_ref(), Split::Validation),
            (lists.test.as_ref(), Split::Test),
        ];
        for (file, split) in files {
            let Some(file) = file else { continue };
            let path = section.root.join(file);
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
            for id in text.lines().map(str::trim).filter(|id| !id.is_empty()) {
                if parts.insert(id.to_owned(), split).is_some_and(|other| other != split) {
                    return Err(Error::Data(format!("{}: `{id}` is in two lists", path.display())));
                }
            }
        }
        Ok(Self::Listed(parts))
    }
}

const DRAW: u64 = 3;

/// Groups in a seeded order, cut at the shares of their number. The order of the rows does not matter.
pub fn assign<'g>(
    groups: impl IntoIterator<Item = &'g str>,
    shares: &SplitShares,
) -> BTreeMap<&'g str, Split> {
    let mut names: Vec<&str> = groups.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    stream(shares.seed, DRAW, 0, 0).shuffle(&mut names);
    let n = names.len();
    let end = |share: f64| ((n as f64 * share).round() as usize).min(n);
    let (train, validation) = (end(shares.train), end(shares.train + shares.validation));
    let part = |i: usize| match i {
        i if i < train => Split::Train,
        i if i < validation => Split::Validation,
        _ => Split::Test,
    };
    names.into_iter().enumerate().map(|(i, name)| (name, part(i))).collect()
}

/// Draws the parts of all rows; a row without a group is one by itself.
pub(super) fn draw(cases: &mut [Case], shares: &SplitShares) {
    let name = |case: &Case| match &case.group {
        Some(group) => format!("group {group}"),
        None => format!("row {}", case.id),
    };
    let names: Vec<String> = cases.iter().map(name).collect();
    let parts = assign(names.iter().map(String::as_str), shares);
    for (case, name) in cases.iter_mut().zip(&names) {
        case.split = parts[name.as_str()];
    }
}

/// # Errors
/// If a group has rows in two parts; the groups are named.
pub(super) fn refuse_shared_groups(cases: &[Case]) -> Result<()> {
    let leaks = shared(cases.iter().filter_map(|case| Some((case.group.as_deref()?, case))));
    let Some(list) = leaks.list(|group, a, b| format!("{group} ({} and {})", a.split, b.split)) else {
        return Ok(());
    };
    Err(Error::Data(format!(
        "patients or articles in more than one part: {list}; test scores would be too good: split by patient, \
         or let [data.split] do it"
    )))
}

/// # Errors
/// If one image (by the hash of its file) has rows in two parts; the rows are named.
pub fn refuse_shared_images<'c, H: Hash + Eq>(images: impl IntoIterator<Item = (H, &'c Case)>) -> Result<()> {
    let leaks = shared(images);
    let Some(list) = leaks.list(|_, a, b| format!("{} ({}) and {} ({})", a.id, a.split, b.id, b.split))
    else {
        return Ok(());
    };
    Err(Error::Data(format!(
        "the same image in more than one part: {list}; test scores would be too good: keep one of the rows, or \
         give both the same patient"
    )))
}

/// For each key in two parts a row of either.
struct Leaks<'c, K>(Vec<(K, &'c Case, &'c Case)>);

fn shared<'c, K: Hash + Eq>(keyed: impl IntoIterator<Item = (K, &'c Case)>) -> Leaks<'c, K> {
    let mut first: HashMap<K, (&Case, Option<&Case>)> = HashMap::new();
    let mut order = 0;
    let mut places = HashMap::new();
    for (key, case) in keyed {
        let (a, b) = first.entry(key).or_insert((case, None));
        if a.split != case.split && b.is_none() {
            *b = Some(case);
            places.insert(case.id.clone(), order);
            order += 1;
        }
    }
    let mut leaks: Vec<_> = first.into_iter().filter_map(|(key, (a, b))| Some((key, a, b?))).collect();
    leaks.sort_by_key(|(_, _, b)| places.get(&b.id).copied());
    Leaks(leaks)
}

impl<K> Leaks<'_, K> {
    /// The first few in words; `None` if there are none.
    fn list(&self, words: impl Fn(&K, &Case, &Case) -> String) -> Option<String> {
        const SHOWN: usize = 5;
        if self.0.is_empty() {
            return None;
        }
        let list: Vec<String> = self.0.iter().take(SHOWN).map(|(key, a, b)| words(key, a, b)).collect();
        let more = match self.0.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        Some(list.join(", ") + &more)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cases;
    use super::super::tests::section;
    use super::*;

    #[test]
    fn a_patient_in_two_parts_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: &str, split: &str| {
            format!(
                r#"{{"id":"{id}","patient_id":"p1","pmcid":"{id}","split":"{split}","image_path":"a.png","image_caption":"clear"}}"#
            )
        };
        let (a, b) = (row("a", "train"), row("b", "test"));
        let mut section = section(folder.path(), &[&a, &b]);
        let said = Cases::read(&section).unwrap_err().to_string();
        assert!(said.contains("p1 (train and test)"), "{said}");
        // By article the same rows are apart, and a field that no row has is not taken for "no groups".
        section.group_by = vec!["pmcid".into()];
        assert_eq!(Cases::read(&section).unwrap().cases.len(), 2);
        section.group_by = vec!["article".into()];
        assert!(Cases::read(&section).unwrap_err().to_string().contains("`article`"));
    }

    #[test]
    fn lists_of_ids_choose_rows() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: &str| format!(r#"{{"id":"{id}","image_path":"a.png","image_caption":"clear"}}"#);
        let rows = ["a", "b", "c"].map(row);
        let mut section = section(folder.path(), &rows.each_ref().map(String::as_str));
        std::fs::write(folder.path().join("train.txt"), "a\n").unwrap();
        std::fs::write(folder.path().join("test.txt"), "c\n").unwrap();
        section.lists = Some(crate::config::IdLists {
            train: "train.txt".into(),
            validation: None,
            test: Some("test.txt".into()),
        });
        let all = Cases::read(&section).unwrap();
        assert_eq!((all.of(Split::Train).count(), all.of(Split::Test).count(), all.unlisted), (1, 1, 1));
        std::fs::write(folder.path().join("test.txt"), "a\n").unwrap();
        assert!(Cases::read(&section).unwrap_err().to_string().contains("two lists"));
    }

    #[test]
    fn drawn_parts_have_their_shares_and_keep_groups_whole() {
        let folder = tempfile::tempdir().unwrap();
        let row = |i: usize| {
            // Two rows of each of 100 articles, and 20 rows of no article.
            let group = if i < 200 { format!(r#""pmcid":"PMC{}","#, i / 2) } else { String::new() };
            format!(r#"{{"id":"r{i}",{group}"image_caption":"clear"}}"#)
        };
        let mut rows: Vec<String> = (0..220).map(row).collect();
        let lines = |rows: &[String]| rows.join("\n");
        let mut section = section(folder.path(), &[]);
        section.split = Some(SplitShares::default());
        let mut draw = |rows: &[String], seed| {
            std::fs::write(folder.path().join("rows.jsonl"), lines(rows)).unwrap();
            section.split.as_mut().unwrap().seed = seed;
            let cases = Cases::read(&section).unwrap().cases;
            cases.into_iter().map(|case| (case.id, (case.group, case.split))).collect::<BTreeMap<_, _>>()
        };
        let drawn = draw(&rows, 42);
        let groups = |split| {
            let of = drawn.iter().filter(|(_, (_, s))| *s == split);
            of.map(|(id, (group, _))| group.clone().unwrap_or(id.clone())).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(Split::ALL.map(groups), [84, 12, 24]);
        assert_ne!(draw(&rows, 43), drawn);
        rows.reverse();
        assert_eq!(draw(&rows, 42), drawn, "the order of the rows does not matter");
    }

    #[test]
    fn one_image_in_two_parts_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: &str, split: &str| {
            format!(r#"{{"id":"{id}","split":"{split}","image_path":"a.png","image_caption":"clear"}}"#)
        };
        let rows = [row("a", "train"), row("b", "train"), row("c", "val")];
        let all = Cases::read(&section(folder.path(), &rows.each_ref().map(String::as_str))).unwrap();
        let said = refuse_shared_images(all.cases.iter().map(|c| (1, c))).unwrap_err().to_string();
        assert!(said.contains("a (train) and c (val)"), "{said}");
        refuse_shared_images(all.cases.iter().enumerate()).unwrap();
    }
}
