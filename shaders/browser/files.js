// Where a model's files come from: a folder beside the page, or the user's disk.

/** Files of a model; the first three must be there. */
export const MODEL_FILES = [
  "config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors",
  "generation_config.json", "chat_template.jinja", "chat_template.json", "tokenizer_config.json",
];

/** Files served from a folder of the page's own site. */
export class ServedFolder {
  /** @param {URL} url of the folder, ending in a slash */
  constructor(url) {
    this.url = url;
    this.name = url.pathname.split("/").filter(Boolean).slice(-2).join("/");
  }

  /** The file as a Blob; `null` if there is none. `onProgress(bytes, of)` sees it come. */
  async open(name, onProgress) {
    const url = new URL(name, this.url);
    const answer = await fetch(url).catch((e) => {
      throw new Error(`${url.pathname} cannot be fetched: ${e.message}; is the server still running?`);
    });
    if (answer.status === 404) {
      return null;
    }
    if (!answer.ok) {
      throw new Error(`${url.pathname}: ${answer.status} ${answer.statusText}`);
    }
    if (!onProgress || !answer.body) {
      return answer.blob();
    }
    const total = Number(answer.headers.get("Content-Length")) || 0;
    const parts = [];
    let seen = 0;
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) {
        break;
      }
      parts.push(value);
      seen += value.byteLength;
      onProgress(seen, total);
    }
    if (total > seen) {
      throw new Error(`${url.pathname}: only ${seen} of ${total} bytes came`);
    }
    return new Blob(parts);
  }
}

/** Files that the user chose, alone or as a folder. */
export class ChosenFiles {
  /** @param {File[]} files */
  constructor(files) {
    this.files = new Map(files.map((file) => [file.name, file]));
    const path = files[0]?.webkitRelativePath ?? "";
    this.name = path.split("/")[0] || "chosen files";
  }

  async open(name) {
    return this.files.get(name) ?? null;
  }
}

/** Text of a file that must be there. */
export async function requiredText(folder, name) {
  const blob = await folder.open(name);
  if (!blob) {
    throw new Error(`${folder.name} has no ${name}. A model is a folder in Hugging Face layout: ${MODEL_FILES.slice(0, 4).join(", ")}.`);
  }
  return blob.text();
}

/** A JSON file that must be there. */
export async function requiredJson(folder, name) {
  return parse(await requiredText(folder, name), `${folder.name}/${name}`);
}

/** A JSON file, or `null` if there is none. */
export async function optionalJson(folder, name) {
  const blob = await folder.open(name);
  return blob && parse(await blob.text(), `${folder.name}/${name}`);
}

function parse(text, origin) {
  try {
    return JSON.parse(text);
  } catch (e) {
    throw new Error(`${origin} is no JSON: ${e.message}`);
  }
}
