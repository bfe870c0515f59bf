//! Reports without a model, to hold a model's scores against.

use std::collections::BTreeMap;

use model::prompt::report::Report;

use crate::data::Case;

/// The report that says what training rows say most often (the median age): reads nothing.
pub fn majority<'c>(training: impl IntoIterator<Item = &'c Case>) -> Report {
    let reports: Vec<&Report> = training.into_iter().filter_map(|case| case.report.as_ref()).collect();
    let mut ages: Vec<f32> = reports.iter().filter_map(|r| r.age).collect();
    ages.sort_by(f32::total_cmp);
    Report {
        labels: most_frequent(reports.iter().map(|r| r.labels.clone())).unwrap_or_default(),
        gender: most_frequent(reports.iter().filter_map(|r| r.gender.clone())),
        age: ages.get(ages.len() / 2).copied(),
        caption: most_frequent(reports.iter().filter_map(|r| r.caption.clone())),
    }
}

fn most_frequent<T: Ord>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_insert(0usize) += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(item, _)| item)
}

/// Age, sex, projection and COVID-19 as the first words of a templated case give them, with the template's
/// caption and no other finding; what the text does not say comes from `rest`. Reads no image: what a model
/// with both inputs scores beyond this, it has from the image.
pub fn copied(case: &Case, rest: &Report) -> Report {
    let text = &case.clinical_case;
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let has = |word: &str| words.contains(&word);
    let sex = [("man", "Male"), ("woman", "Female")].into_iter().find(|(word, _)| has(word));
    let years = text.split_once("-year-old").and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
    let covid = has("COVID");
    let intensive = text.contains("intensive care");
    let view = if has("AP") || intensive {
        ("Anteroposterior (AP)", "anteroposterior")
    } else {
        ("Posteroanterior (PA)", "posteroanterior")
    };
    let finding = if covid { "covid_19" } else { "no_finding" };
    let labels = ["radiology", "x_ray", "thorax", "frontal", view.1, finding].map(str::to_owned).to_vec();
    let Some((noun, gender)) = sex else { return Report { labels, ..rest.clone() } };
    let (age, who) = match years {
        Some(age) => (Some(age), format!("{age:.0}-year-old {noun}")),
        None if covid => (None, noun.to_owned()),
        None => (rest.age, noun.to_owned()),
    };
    let rest = match (covid, intensive) {
        (true, true) => " with COVID-19 in intensive care.",
        (true, false) => " with COVID-19.",
        _ => ". No finding is labelled.",
    };
    let caption = Some(format!("{} chest radiograph of a {who}{rest}", view.0));
    Report { labels, gender: Some(gender.into()), age, caption }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Place, Split};

    fn case(text: &str, age: f32) -> Case {
        Case {
            id: "a".into(),
            group: None,
            split: Split::Train,
            image: None,
            clinical_case: text.into(),
            answer: String::new(),
            report: Some(Report {
                labels: vec!["x_ray".into()],
                gender: Some("Male".into()),
                age: Some(age),
                caption: None,
            }),
            place: Place { file: "rows.jsonl".into(), line: 1 },
        }
    }

    #[test]
    fn a_case_is_copied() {
        let rest = majority(&[case("", 3.0), case("", 5.0), case("", 4.0)]);
        assert_eq!(rest.age, Some(4.0));
        let line = |text| copied(&case(text, 0.0), &rest).format();
        assert_eq!(
            line("A 62-year-old woman. Anteroposterior (AP) view requested for the chest."),
            "Image Labels: radiology, x_ray, thorax, frontal, anteroposterior, no_finding | Gender: Female | Age: 62.0 | \
             Image Caption: Anteroposterior (AP) chest radiograph of a 62-year-old woman. No finding is labelled."
        );
        assert_eq!(
            line("A man with COVID-19, age not given. Admitted 1 day before the image."),
            "Image Labels: radiology, x_ray, thorax, frontal, posteroanterior, covid_19 | Gender: Male | Age: unknown | \
             Image Caption: Posteroanterior (PA) chest radiograph of a man with COVID-19."
        );
        assert!(line("Patchy shadows.").contains("Gender: Male | Age: 4.0"));
    }
}
