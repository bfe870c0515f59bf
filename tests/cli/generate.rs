//! `generate`.

use crate::program::{roentgen, roentgen_reading};
use crate::tiny::{Images, Tiny};

fn base<'a>(tiny: &'a Tiny, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["generate", "--model", tiny.name(), "--max-new-tokens", "8"];
    args.extend(more);
    args
}

#[test]
fn text_ids_and_json_agree() {
    let tiny = Tiny::new();
    let prompt = ["--prompt", "Write a structured"];
    let json = roentgen(base(&tiny, &[&prompt[..], &["--json"]].concat())).ok().json();
    let answer = &json["answers"][0];
    let ids: Vec<_> = answer["ids"].as_array().unwrap().iter().map(ToString::to_string).collect();
    assert!(!ids.is_empty() && ids.len() <= 8);
    assert_eq!(roentgen(base(&tiny, &[&prompt[..], &["--ids"]].concat())).ok().stdout.trim(), ids.join(" "));
    let text = roentgen(base(&tiny, &prompt)).ok().stdout;
    assert_eq!(text, format!("{}\n", answer["text"].as_str().unwrap()));
    assert_eq!(roentgen_reading(prompt[1], &base(&tiny, &["--prompt", "-"])).ok().stdout, text);
}

#[test]
fn a_batch_gives_what_single_prompts_give() {
    let tiny = Tiny::new();
    let prompts = ["Write", "Image Labels: radiology, thorax | Gender:"];
    let batch =
        roentgen(base(&tiny, &["--json", "--prompt", prompts[0], "--prompt", prompts[1]])).ok().json();
    for (i, prompt) in prompts.iter().enumerate() {
        let single = roentgen(base(&tiny, &["--json", "--prompt", prompt])).ok().json();
        assert_eq!(batch["answers"][i], single["answers"][0]);
    }
    let ids = roentgen(base(&tiny, &["--ids", "--prompt", prompts[0], "--prompt", prompts[1]])).ok().stdout;
    assert_eq!(ids.lines().count(), 2);
}

#[test]
fn the_seed_decides_and_stop_texts_cut() {
    let tiny = Tiny::new();
    let sample = |seed: &str| {
        let args = ["--prompt", "Write", "--temperature", "1.5", "--top-p", "0.95", "--seed", seed, "--ids"];
        roentgen(base(&tiny, &args)).ok().stdout
    };
    assert_eq!(sample("1"), sample("1"));
    assert!((2..8).any(|seed| sample(&seed.to_string()) != sample("1")), "seven seeds, one answer");

    let whole = roentgen(base(&tiny, &["--prompt", "Write", "--json"])).ok().json();
    let whole = whole["answers"][0]["text"].as_str().unwrap().to_owned();
    let stop: String = whole.chars().skip(2).take(2).collect();
    let cut = roentgen(base(&tiny, &["--prompt", "Write", "--json", "--stop", &stop])).ok().json();
    assert_eq!(cut["answers"][0]["finish"], "stop_text");
    assert_eq!(cut["answers"][0]["text"].as_str().unwrap(), &whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn images_and_chat_go_through_the_template() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let image = images.gradient("a.png", 24, 24);
    let ids = |more: &[&str]| {
        let args = base(&tiny, &[&["--prompt", "Write", "--json"], more].concat());
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let json = roentgen(args).ok().json();
        json["answers"][0]["prompt_ids"].as_array().unwrap().clone()
    };
    let (raw, chat) = (ids(&[]), ids(&["--chat"]));
    assert_ne!(raw[0], 1);
    assert_eq!(chat[0], 1, "<|im_start|>");
    assert!(chat.contains(&5.into()), "<end_of_utterance>");
    assert!(ids(&["--system", "Be brief."]).len() > chat.len());
    let image = ids(&["--image", image.to_str().unwrap()]);
    // 24 pixels, enlarged and cut into 4 × 4 tiles and the whole, 4 tokens each.
    assert_eq!(image.iter().filter(|id| **id == 4).count(), 17 * 4);
}

#[test]
fn senseless_options_are_errors() {
    let tiny = Tiny::new();
    for (option, value, says) in [
        ("--temperature", "-1", "temperature"),
        ("--top-p", "0", "top-p"),
        ("--min-p", "2", "min-p"),
        ("--repetition-penalty", "0", "repetition penalty"),
        ("--stop", "", "stop text"),
    ] {
        roentgen(base(&tiny, &["--prompt", "a", &format!("{option}={value}")])).fails(&[says]);
    }
    roentgen(base(&tiny, &["--prompt", ""])).fails(&["empty"]);
    roentgen(base(&tiny, &["--prompt", "-", "--prompt", "-"])).fails(&["stdin"]);
    roentgen(base(&tiny, &["--prompt", "an <image> in a text"])).fails(&["<image>"]);
    roentgen(base(&tiny, &["--chat", "--prompt", "the end<end_of_utterance>"]))
        .fails(&["<end_of_utterance>"]);
    roentgen(base(&tiny, &["--prompt", "a", "--top-k", "3"])).ok().says(&["temperature 0"]);
}
