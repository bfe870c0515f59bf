//! The work that operations declare against independent counts: formulas written out here, on the operations that
//! models really apply.

use bench::op::models::{Workload, config};
use bench::op::{Case, given};
use engine::{Cost, DType, Device};
use model::config::{Config, Part};

/// A model small enough to run whole, with sizes that are no multiples of each other.
fn small(vision: bool) -> Config {
    let name = if vision { "SmolVLM-256M-Instruct" } else { "SmolLM2-135M" };
    let mut config = Config::known(name).unwrap();
    config.text.hidden_size = 96;
    config.text.intermediate_size = 160;
    config.text.num_hidden_layers = 5;
    (config.text.num_attention_heads, config.text.num_key_value_heads, config.text.head_dim) = (6, 2, 16);
    config.text.vocab_size = 1000;
    if let Some(image) = &mut config.image {
        image.image_token_id = 990;
        image.vision.hidden_size = 48;
        image.vision.intermediate_size = 112;
        image.vision.num_hidden_layers = 3;
        image.vision.num_attention_heads = 4;
        image.vision.image_size = 128;
    }
    config
}

fn workload(config: Config) -> Workload {
    Workload { config, dtype: DType::BF16, nf4: false, tokens: None, depth: None, train: false }
}

/// How often the whole model has a case in a phase.
fn count(case: &Case, phase: &str) -> usize {
    case.phases.iter().filter(|p| p.name == phase).map(|p| p.count).sum()
}

/// Declared operations of a phase, over the whole model.
fn flops(cases: &[Case], phase: &str, op: impl Fn(&str) -> bool) -> f64 {
    let of = cases.iter().filter(|c| op(c.application.name()));
    of.map(|c| count(c, phase) as f64 * c.application.cost().unwrap().flops as f64).sum()
}

fn near(found: f64, wanted: f64, what: &str) {
    let off = (found / wanted - 1.0).abs();
    assert!(off < 0.01, "{what}: declared {found}, by the formula {wanted}");
}

/// `2·params·tokens` of the decoder's layers, the head on the last token, and causal attention.
#[test]
fn prefill_and_decode_of_a_text_model() {
    let mut work = workload(small(false));
    (work.tokens, work.depth) = (Some(75), Some(130));
    let cases = work.cases(&Device::cpu()).unwrap();
    let c = &work.config;
    let params = c.parameter_count().decoder as f64 - (2 * 5 + 1) as f64 * 96.0;
    let head = 2.0 * 1000.0 * 96.0;
    let product = |name: &str| name == "matmul";
    near(flops(&cases, "prefill", product), 2.0 * params * 75.0 + head, "prefill's products");
    near(flops(&cases, "decode", product), 2.0 * params + head, "decode's products");
    // Query i sees i + 1 keys; two products of 6 heads of 16; 5 layers.
    let attention = |pairs: f64| 4.0 * 5.0 * 6.0 * 16.0 * pairs;
    let attends = |name: &str| name == "attention";
    assert_eq!(flops(&cases, "prefill", attends), attention(75.0 * 76.0 / 2.0));
    assert_eq!(flops(&cases, "decode", attends), attention(131.0));
    // And the plan that `inspect` prints says the same.
    near(
        flops(&cases, "prefill", product) + attention(2850.0),
        (c.prefill_work(75).total() + c.head_work()) as f64,
        "plan",
    );
    near(
        flops(&cases, "decode", |n| product(n) || attends(n)),
        c.decode_work(130).total() as f64,
        "plan of a step",
    );
}

#[test]
fn vision_and_its_prompt() {
    let work = workload(small(true));
    let cases = work.cases(&Device::cpu()).unwrap();
    let c = &work.config;
    let image = c.image.as_ref().unwrap();
    let patches = image.vision.grid().pow(2) as f64;
    assert_eq!(work.prompt(), image.tokens_per_tile() + 100);
    let matrices: usize = (c.tensors().iter())
        .filter(|t| t.part == Part::Vision && t.shape.len() > 1 && !t.name.contains("position"))
        .map(|t| t.shape.iter().product::<usize>())
        .sum();
    let connector = 2.0 * image.tokens_per_tile() as f64 * (image.connector_input() * 96) as f64;
    let products = flops(&cases, "vision", |name| name == "matmul");
    near(products, 2.0 * matrices as f64 * patches + connector, "vision's products");
    let attention = 4.0 * 3.0 * patches * patches * 48.0;
    assert_eq!(flops(&cases, "vision", |name| name == "attention"), attention);
    near(products + attention, (c.vision_work(1).total() + c.connector_work(1)) as f64, "plan");
}

/// Forward and backward of all weights: three times the forward products. The first layer's input needs its gradient as
/// well: it comes from the trained embedding.
#[test]
fn a_training_step() {
    let mut work = workload(small(false));
    (work.tokens, work.train) = (Some(60), true);
    let cases = work.cases(&Device::cpu()).unwrap();
    let c = &work.config;
    let layers = c.parameter_count().decoder as f64 - 11.0 * 96.0;
    let (head, counted) = (1000.0 * 96.0, 59.0);
    let all = |op: &str| flops(&cases, "train", |name| name == op);
    // Forward, and two products for each backward; the loss counts 59 rows of the head.
    near(all("matmul"), 3.0 * (2.0 * layers * 60.0 + 2.0 * head * counted), "products");
    assert_eq!(all("attention_grad"), 2.5 * 4.0 * 5.0 * 6.0 * 16.0 * (60.0 * 61.0 / 2.0));
    let adamw: f64 = (cases.iter().filter(|c| c.application.name().starts_with("adamw")))
        .map(|c| (c.count() * c.application.inputs()[0].count()) as f64)
        .sum();
    assert_eq!(adamw, c.parameter_count().total() as f64, "every weight takes a step once");
}

#[test]
fn layers_are_counted_as_often_as_there_are() {
    let work = workload(config("smolvlm-256m").unwrap());
    let mut short = work.clone();
    // The same without the time that 256M parameters take: only numbers of layers matter.
    short.config = small(true);
    let cases = short.cases(&Device::cpu()).unwrap();
    let count = |op: &str, phase: &str| -> usize {
        cases.iter().filter(|c| c.application.name() == op).map(|c| count(c, phase)).sum()
    };
    assert_eq!(
        (count("attention", "vision"), count("attention", "prefill"), count("attention", "decode")),
        (3, 5, 5)
    );
    assert_eq!(count("layer_norm", "vision"), 2 * 3 + 1);
    // The first norm stands alone; each other one follows a sum.
    assert_eq!((count("rms_norm", "decode"), count("add_rms_norm", "decode")), (1, 2 * 5));
    assert_eq!((count("rope_write", "decode"), count("rope", "decode"), count("write", "decode")), (5, 0, 0));
    assert_eq!(count("argmax", "decode"), 1);
    assert_eq!(config("SMOLVLM-256M").unwrap(), work.config);
}

fn cost_of(name: &str, shape: &str, set: &[(&str, &str)]) -> Cost {
    let settings = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let shapes = given::shapes(shape).unwrap();
    let cases = given::cases(name, &shapes, &settings, DType::BF16, &Device::cpu()).unwrap();
    cases[0].application.cost().unwrap()
}

#[test]
fn products_by_hand() {
    // 7×11 times 11×5: 7·5 sums of 11 products; operands and result in bf16.
    assert_eq!(
        cost_of("matmul", "7x11,11x5", &[]),
        Cost { flops: 2 * 7 * 5 * 11, read: 2 * (77 + 55), written: 2 * 35 }
    );
    assert_eq!(
        cost_of("linear", "7x11,5x11,5", &[]),
        Cost { flops: 770, read: 2 * (77 + 55 + 5), written: 70 }
    );
    // 12 heads of 64 over 100 queries and keys: scores and values, all pairs or half of them; log-sum-exps in f32.
    let qkv = 2 * 100 * 12 * 64;
    let whole = Cost { flops: 2 * 2 * 12 * 100 * 100 * 64, read: 3 * qkv, written: qkv + 4 * 12 * 100 };
    assert_eq!(cost_of("attention", "1x100x12x64", &[("causal", "false")]), whole);
    let causal = cost_of("attention", "1x100x12x64", &[]);
    assert_eq!(causal, Cost { flops: 2 * 2 * 12 * (100 * 101 / 2) * 64, ..whole });
    // 4-bit: half a byte a weight, an 8-bit scale for 64, an f32 for 256 scales, a map of 256 f32.
    let weight = 512 * 256 / 2 + 512 * 256 / 64 + 4 * (512 * 256 / 64 / 256) + 4 * 256;
    let x = 2 * 3 * 256;
    assert_eq!(
        cost_of("linear_nf4", "3x256,512x256", &[]),
        Cost { flops: 2 * 3 * 512 * 256, read: x + weight, written: 2 * 3 * 512 }
    );
    // An adapter of rank 8 in f32: x·Aᵀ and its product with Bᵀ; the inner product is written.
    assert_eq!(
        cost_of("linear_nf4", "3x256,512x256", &[("rank", "8")]),
        Cost {
            flops: 2 * 3 * (512 * 256 + 8 * (512 + 256)),
            read: x + weight + 4 * 8 * (512 + 256),
            written: 2 * 3 * (512 + 8)
        }
    );
}
