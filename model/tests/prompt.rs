//! Prompts against the reference processor's ids; templates; the structured report.

mod common;

use common::{fixture, fixture_json, ids_with_runs, shared, tokenizer_2b, tokenizer_256m};
use model::config::{Config, VisionLanguageConfig};
use model::prompt::report::{self, Field, Limit, Report};
use model::prompt::{ChatTemplate, Content, Grid, Message, PromptEncoder, PromptError, Role, expand_image};
use model::tokenizer::{Tokenizer, train_bpe};
use proptest::prelude::*;

fn vision_language(name: &str) -> VisionLanguageConfig {
    Config::known(name).unwrap().image.unwrap()
}

fn published_template() -> ChatTemplate {
    ChatTemplate::from_folder(fixture("smolvlm-256m-instruct")).unwrap().expect("the folder has one")
}

#[test]
fn prompts_are_those_of_the_reference() {
    let (Some(small), Some(large)) = (tokenizer_256m(), tokenizer_2b()) else { return };
    let (published, own) = (published_template(), ChatTemplate::smolvlm());
    let small = PromptEncoder::new(&small, &published, &vision_language("SmolVLM-256M-Instruct"));
    let large = PromptEncoder::new(&large, &own, &vision_language("SmolVLM-Instruct"));
    let (small, large) = (small.unwrap(), large.unwrap());
    let cases = fixture_json("smolvlm-tiny/tokenizer_cases.json");
    let cases = cases["prompt"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let encoder = if case["model"] == "2.2B" { &large } else { &small };
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let grid = Grid { rows: size("rows"), cols: size("cols") };
        let messages = [Message::user(1, case["question"].as_str().unwrap())];
        let prompt = encoder.encode(&messages, &[grid]).unwrap();
        assert_eq!(prompt.text, "<|im_start|>User:<image>Describe the image.<end_of_utterance>\nAssistant:");
        assert_eq!(prompt.image_tokens, size("image_tokens"));
        assert_eq!(prompt.ids.len(), size("length"));
        assert_eq!(prompt.ids, ids_with_runs(&case["ids"]), "{} {grid:?}", case["model"]);
    }
}

#[test]
fn an_answer_tokenised_apart_has_the_ids_of_the_whole() {
    for (tokenizer, name) in
        [(tokenizer_256m(), "SmolVLM-256M-Instruct"), (tokenizer_2b(), "SmolVLM-Instruct")]
    {
        let Some(tokenizer) = tokenizer else { return };
        let config = vision_language(name);
        let template = ChatTemplate::smolvlm();
        let encoder = PromptEncoder::new(&tokenizer, &template, &config).unwrap();
        let grid = Grid { rows: 1, cols: 2 };
        let question = [report::message(Some("A 29 years old female with cough."), Limit::default())];
        let answer = "Image Labels: thorax | Gender: Female | Age: 29.0 | Image Caption: Clear.";
        let example = encoder.encode_example(&question, &[grid], answer).unwrap();

        let mut both = question.to_vec();
        both.push(Message::text(Role::Assistant, answer));
        let text = encoder.render(&both, false).unwrap();
        let text = text.strip_suffix('\n').unwrap();
        let whole = text.replace("<image>", &expand_image(grid, config.tokens_per_tile()));
        assert_eq!(example.ids, tokenizer.encode(&whole).unwrap());
        let learned = tokenizer.decode(&example.ids[example.answer_start..], false).unwrap();
        assert_eq!(learned, format!(" {answer}<end_of_utterance>"));
        assert_eq!(example.image_tokens, 3 * config.tokens_per_tile());
    }
}

#[test]
fn the_built_in_template_is_the_published_one() {
    let conversations = [
        vec![Message::user(1, "What?")],
        vec![Message::text(Role::User, "Hi")],
        vec![Message::text(Role::System, "Be brief."), Message::user(2, "Compare.\n{{ 1 + 1 }} <b>")],
        vec![
            Message { role: Role::User, content: vec![Content::Text("See: ".into()), Content::Image] },
            Message::text(Role::Assistant, "I see."),
            Message::text(Role::User, "More?"),
        ],
        vec![],
    ];
    for messages in conversations {
        for generate in [false, true] {
            let built_in = ChatTemplate::smolvlm().render(&messages, generate).unwrap();
            assert_eq!(built_in, published_template().render(&messages, generate).unwrap());
        }
    }
    let text = ChatTemplate::smolvlm()
        .render(&[Message::text(Role::System, "Be brief."), Message::user(1, "Why?")], true)
        .unwrap();
    assert_eq!(
        text,
        "<|im_start|>System: Be brief.<end_of_utterance>\nUser:<image>Why?<end_of_utterance>\nAssistant:"
    );
}

#[test]
fn a_tokenizer_config_has_the_same_template() {
    let Some(path) = shared("data/tokenizers/smolvlm-256m-instruct/tokenizer_config.json") else { return };
    let folder = tempfile::tempdir().unwrap();
    assert!(ChatTemplate::from_folder(folder.path()).unwrap().is_none());
    std::fs::copy(path, folder.path().join("tokenizer_config.json")).unwrap();
    let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
    let messages = [Message::user(1, "Why?")];
    assert_eq!(
        template.render(&messages, true).unwrap(),
        published_template().render(&messages, true).unwrap()
    );
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages | length }}").unwrap();
    let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
    assert_eq!(template.render(&[Message::text(Role::User, "a")], true).unwrap(), "1", "the file goes first");
}

#[test]
fn templates_with_string_content_get_strings() {
    let chatml = "{% for message in messages %}\n{{ '<|im_start|>' + message['role'] + '\\n' + \
                  message['content'] + '<|im_end|>' + '\\n' }}\n{% endfor %}\n\
                  {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    let template = ChatTemplate::new(chatml, "chatml").unwrap();
    let text = template.render(&[Message::text(Role::User, "Hi")], true).unwrap();
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n\n<|im_start|>assistant\n");
    let error = template.render(&[Message::user(1, "Hi")], true).unwrap_err().to_string();
    assert!(error.contains("no images"), "{error}");
}

#[test]
fn hostile_templates_are_errors() {
    for (template, expected) in [
        ("{% for m in messages %}", "hostile"),
        ("{% for i in range(9000) %}{% for j in range(9000) %}x{% endfor %}{% endfor %}", "fuel"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.further }}", "hostile"),
        ("{% include 'etc' %}", "hostile"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "hostile"),
    ] {
        let result = ChatTemplate::new(template, "hostile")
            .and_then(|template| template.render(&[Message::text(Role::User, "a")], true));
        let error = result.expect_err(template).to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    for json in ["{", "{\"chat_template\": 3}", "{\"chat_template\": [{\"name\": \"rag\"}]}"] {
        std::fs::write(folder.path().join("chat_template.json"), json).unwrap();
        let error = ChatTemplate::from_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("chat_template.json"), "{error}");
    }
}

fn trained() -> Tokenizer {
    let specials = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
        "<global-img>",
    ];
    let json = train_bpe(["The lungs are clear. The lungs are clear."], 280, &specials).unwrap();
    Tokenizer::from_json(json, "trained").unwrap()
}

#[test]
fn images_and_messages_must_go_together() {
    let tokenizer = trained();
    let config = VisionLanguageConfig { image_token_id: 4, ..vision_language("SmolVLM-256M-Instruct") };
    let own = ChatTemplate::smolvlm();
    let encoder = PromptEncoder::new(&tokenizer, &own, &config).unwrap();
    let grid = Grid { rows: 2, cols: 2 };
    assert!(encoder.encode(&[Message::user(2, "a")], &[grid, Grid::default()]).is_ok());
    for (images, grids) in [(1, 0), (0, 1), (1, 2)] {
        let result = encoder.encode(&[Message::user(images, "a")], &vec![grid; grids]);
        assert!(matches!(result, Err(PromptError::ImageCount { .. })), "{images} {grids}");
    }
    for text in ["<image>", "x<end_of_utterance>", "<|im_end|>"] {
        let result = encoder.encode(&[Message::user(1, text)], &[grid]);
        assert!(matches!(result, Err(PromptError::ControlToken { .. })), "{text}");
        let result = encoder.encode_example(&[Message::user(1, "a")], &[grid], text);
        assert!(matches!(result, Err(PromptError::ControlToken { .. })), "{text}");
    }
    let drops = ChatTemplate::new("{{ messages[0]['content'][0]['type'] }}", "drops images").unwrap();
    let encoder = PromptEncoder::new(&tokenizer, &drops, &config).unwrap();
    assert!(matches!(encoder.encode(&[Message::user(1, "a")], &[grid]), Err(PromptError::ImageCount { .. })));

    let wrong = vision_language("SmolVLM-256M-Instruct");
    let error = PromptEncoder::new(&tokenizer, &own, &wrong).unwrap_err().to_string();
    assert!(error.contains("49190"), "{error}");
    let text = PromptEncoder::text_only(&tokenizer, &own);
    assert!(text.encode(&[Message::user(1, "a")], &[grid]).is_err());
    assert_eq!(text.encode(&[Message::text(Role::User, "a")], &[]).unwrap().image_tokens, 0);
}

#[test]
fn the_case_is_cut_in_characters() {
    let case = "é🩻".repeat(400);
    let cut = report::question("Ask.", Some(&case), Limit::Case(501));
    assert_eq!(cut, format!("Ask.\nClinical case: {}é", "é🩻".repeat(250)));
    let whole = report::question("Ask.", Some(&case), Limit::Whole(30));
    assert_eq!(whole.chars().count(), 30);
    assert!(report::question("Ask.", Some(&case), Limit::None).ends_with(&case));
    assert_eq!(report::question("Ask.", Some("  "), Limit::default()), "Ask.");
    assert_eq!(report::question("Ask.", None, Limit::default()), "Ask.");
    for field in Field::ALL {
        assert!(report::INSTRUCTION.contains(field.name()));
    }
}

#[test]
fn a_complete_line_is_read() {
    let line = "Image Labels: thorax, radiology, frontal, x_ray | Gender: Female | Age: 29.0 | \
                Image Caption: Pre-op x-ray | chest with Chilaiditis Sign.";
    let parsed = Report::parse(&format!(" {line}\n"));
    assert!(parsed.complete(), "{parsed:?}");
    assert_eq!(parsed.report.labels, ["thorax", "radiology", "frontal", "x_ray"]);
    assert_eq!(parsed.report.gender.as_deref(), Some("Female"));
    assert_eq!(parsed.report.age, Some(29.0));
    assert_eq!(parsed.report.caption.as_deref(), Some("Pre-op x-ray | chest with Chilaiditis Sign."));
    assert_eq!(parsed.report.format(), line);
    // The article's figure has three spaces where its text has bars.
    let spaced = line.replacen(" | ", "   ", 3);
    assert_eq!(Report::parse(&spaced), parsed);
    assert_eq!(Report::parse(&line.replacen(" | ", "\n", 3)), parsed);
    assert_eq!(Report::parse(&line.replacen(" | ", "|", 3).to_uppercase()).missing, []);
}

#[test]
fn what_is_missing_is_named() {
    let missing = |text: &str| Report::parse(text).missing;
    assert_eq!(missing(""), Field::ALL);
    assert_eq!(missing("The lungs are clear."), Field::ALL);
    assert_eq!(missing("Image Labels: a | Age: 5 | Image Caption: b"), [Field::Gender]);
    assert_eq!(missing("Gender:  | Age: 5 | Image Labels: a | Image Caption: c"), [Field::Gender]);
    assert_eq!(missing("Image Labels: a | Gender: Male | Ag"), [Field::Age, Field::Caption]);

    let parsed = Report::parse("Image Labels: unknown | Gender: unknown | Age: nan | Image Caption: unknown");
    assert!(parsed.complete());
    assert_eq!(parsed.report, Report::default());
    assert_eq!(Report::parse(&Report::default().format()).report, Report::default());

    let parsed = Report::parse("Image Labels: , | Gender: Male | Age: old | Image Caption: x");
    assert_eq!(parsed.unreadable, [(Field::Labels, ",".into()), (Field::Age, "old".into())]);
    for (age, expected) in [("29", Some(29.0)), ("29 years", Some(29.0)), ("0.5", Some(0.5)), ("999", None)] {
        assert_eq!(Report::parse(&format!("Age: {age}")).report.age, expected, "{age}");
    }
}

#[test]
fn a_name_inside_a_text_is_not_a_field() {
    let parsed = Report::parse("Gender: Male | Image Caption: Age: of the device unknown; gender: not told");
    assert_eq!(parsed.missing, [Field::Labels, Field::Age]);
    assert_eq!(parsed.report.caption.as_deref(), Some("Age: of the device unknown; gender: not told"));
    let parsed = Report::parse("Gender: Male | Findings: none | Age: 5.0");
    assert_eq!(parsed.report.gender.as_deref(), Some("Male"), "an unknown field is not part of it");
    assert_eq!(parsed.report.age, Some(5.0));
    let parsed = Report::parse("Gender: Male | Gender: Female");
    assert_eq!(parsed.report.gender.as_deref(), Some("Male"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_inverts_writing(
        labels in prop::collection::vec("[a-z][a-z_]{0,8}q", 1..5),
        gender in prop::option::of("[A-Z][a-z]{0,6}q"),
        tenths in prop::option::of(0u16..1200),
        caption in prop::option::of("[A-Z][a-z,.;|]{0,30}q"),
    ) {
        let report = Report { labels, gender, age: tenths.map(|t| f32::from(t) / 10.0), caption };
        let parsed = Report::parse(&report.format());
        prop_assert!(parsed.complete());
        prop_assert_eq!(parsed.report, report);
    }

    #[test]
    fn no_answer_panics(answer in "(\\PC|Image Labels|Age|Gender:|Image Caption: |\\||  |\n|é){0,20}") {
        let _ = Report::parse(&answer);
    }

    #[test]
    fn image_tokens_follow_the_formula(rows in 1usize..5, cols in 1usize..5) {
        let grid = Grid { rows, cols };
        let tokenizer = trained();
        let ids = tokenizer.encode(&expand_image(grid, 64)).unwrap();
        prop_assert_eq!(ids.iter().filter(|&&id| id == 4).count(), 64 * grid.tiles());
        prop_assert_eq!(ids.iter().filter(|&&id| id == 3).count(), grid.tiles() + 1);
        prop_assert_eq!(ids.last(), Some(&3));
    }
}
