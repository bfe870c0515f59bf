// The question to the model, as model/src/prompt.rs and prompt/report.rs write it.

const IMAGE = "<image>";
const FAKE = "<fake_token_around_image>";
const GLOBAL = "<global-img>";
const END = "<end_of_utterance>";

/** Names the four fields in the order and spelling of the answer. */
export const INSTRUCTION = "Write a structured report of this chest X-ray on one line, with these four "
  + "fields: Image Labels (comma-separated) | Gender | Age (years) | Image Caption (findings).";

/** Characters of the clinical case that are read. */
export const CASE_LIMIT = 500;

/** The template of all SmolVLM models. Browsers have no Jinja: a model with another one is refused. */
const TEMPLATE = "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
  + "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
  + "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>{% else %}{{ item['text'] }}"
  + "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}";

/** Refuses a template that this page would not write; `null` stands for none, which means SmolVLM's own. */
export function checkTemplate(template, origin) {
  const squeeze = (text) => text.replace(/\s+/g, " ").trim();
  if (template !== null && squeeze(template) !== squeeze(TEMPLATE)) {
    throw new Error(`${origin}: a chat template other than SmolVLM's; this page writes only that one (the program runs any)`);
  }
}

/** The first `n` characters (Unicode scalar values) of a text. */
function first(text, n) {
  return [...text].slice(0, n).join("");
}

/** The text that stands for one image: for each tile `F<row_r_col_c>I`, after each row a newline; at last `F<global-img>IF`. */
function expandImage({ rows, cols }, tokensPerTile) {
  const tokens = IMAGE.repeat(tokensPerTile);
  let text = "";
  for (let row = 1; row <= rows; row += 1) {
    for (let col = 1; col <= cols; col += 1) {
      text += `${FAKE}<row_${row}_col_${col}>${tokens}`;
    }
    text += "\n";
  }
  if (rows > 0) {
    text += "\n";
  }
  return `${text}${FAKE}${GLOBAL}${tokens}${FAKE}`;
}

/**
 * Ids of the question about one image.
 * @param {import("./tokenizer.js").Tokenizer} tokenizer
 * @param {object} config of readConfig
 * @param {{rows: number, cols: number, count: number}} grid of the image
 * @param {string} clinicalCase what is known besides the image; may be empty
 */
export function encodeQuestion(tokenizer, config, grid, clinicalCase) {
  const spelled = clinicalCase.trim();
  const control = tokenizer.specialIn(spelled);
  if (control) {
    throw new Error(`the case contains ${control}, which is a control token of this model; remove it`);
  }
  const question = spelled ? `${INSTRUCTION}\nClinical case: ${first(spelled, CASE_LIMIT)}` : INSTRUCTION;
  const image = expandImage(grid, config.tokensPerTile);
  const ids = tokenizer.encode(`<|im_start|>User:${image}${question}${END}\nAssistant:`);
  const found = ids.filter((id) => id === config.imageToken).length;
  if (found !== grid.count * config.tokensPerTile) {
    throw new Error(`the tokenizer made ${found} image tokens of ${grid.count * config.tokensPerTile}; is it this model's?`);
  }
  if (ids.length >= config.text.positions) {
    throw new Error(`the prompt has ${ids.length} tokens; the model has ${config.text.positions} positions: shorten the case`);
  }
  return ids;
}

/** Refuses a tokenizer that is not the model's. */
export function checkVocabulary(tokenizer, config, origin) {
  for (const token of [IMAGE, FAKE, END]) {
    if (tokenizer.specialId(token) === undefined) {
      throw new Error(`${origin} has no special token ${token}; is it this model's?`);
    }
  }
  if (tokenizer.specialId(IMAGE) !== config.imageToken) {
    throw new Error(`${origin}: ${IMAGE} is ${tokenizer.specialId(IMAGE)}, but image_token_id is ${config.imageToken} in config.json`);
  }
}
