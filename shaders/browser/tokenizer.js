// Byte-level BPE from a tokenizer.json, as SmolVLM's: digits one by one, GPT-2's pieces, merges by rank. Other kinds are refused.

/** GPT-2's pattern of pieces; `\s` of its engine is Unicode's White_Space, which JavaScript's is not quite. */
const PIECES = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** GPT-2's spelling of bytes as printable characters: those of Latin-1 spell themselves, the other 68 are U+0100 and on. */
const CHARACTERS = (() => {
  const itself = (b) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(itself(b) ? b : next++));
})();
const BYTE_OF = new Map(CHARACTERS.map((c, b) => [c, b]));

const escapeForPattern = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** A vocabulary with its merges. */
export class Tokenizer {
  /**
   * @param {object} json content of a tokenizer.json
   * @param {string} origin names it in errors
   */
  constructor(json, origin) {
    const fail = (reason) => new Error(`${origin}: ${reason}`);
    const { model, added_tokens: added = [], normalizer, pre_tokenizer: before, decoder } = json;
    if (model?.type !== "BPE" || decoder?.type !== "ByteLevel") {
      throw fail(`a tokenizer of kind ${model?.type}/${decoder?.type}; only byte-level BPE is supported`);
    }
    if (normalizer || model.continuing_subword_prefix || model.end_of_word_suffix) {
      throw fail("it normalises or marks words, which this page does not do");
    }
    const steps = before?.type === "Sequence" ? before.pretokenizers : [before];
    const byteLevel = steps.at(-1);
    const digits = steps.length === 2 && steps[0]?.type === "Digits" && steps[0].individual_digits;
    if (byteLevel?.type !== "ByteLevel" || byteLevel.add_prefix_space || byteLevel.use_regex === false || !(digits || steps.length === 1)) {
      throw fail("its pre-tokenizer is not GPT-2's, with or without single digits");
    }
    if (added.some((token) => token.lstrip || token.rstrip || token.single_word)) {
      throw fail("an added token takes spaces with it, which this page does not do");
    }
    this.singleDigits = Boolean(digits);
    this.wholeWords = Boolean(model.ignore_merges);
    this.ids = new Map(Object.entries(model.vocab));
    this.special = new Set();
    for (const { id, content, special } of added) {
      this.ids.set(content, id);
      if (special) {
        this.special.add(id);
      }
    }
    this.specials = added.filter((token) => token.special).map((token) => token.content);
    this.size = Math.max(...this.ids.values()) + 1;
    this.contents = new Array(this.size);
    for (const [content, id] of this.ids) {
      this.contents[id] = content;
    }
    this.ranks = new Map(model.merges.map((merge, rank) => [Array.isArray(merge) ? merge.join(" ") : merge, rank]));
    // The longest first where several begin at one place.
    const byLength = added.map((token) => token.content).sort((a, b) => b.length - a.length);
    this.addedPattern = byLength.length > 0 ? new RegExp(`(${byLength.map(escapeForPattern).join("|")})`, "u") : null;
    this.words = new Map();
  }

  /** Id of a special token by its content; undefined if it is none. */
  specialId(content) {
    const id = this.ids.get(content);
    return this.special.has(id) ? id : undefined;
  }

  /** The first special token that a text spells out, if any. */
  specialIn(text) {
    return this.specials.find((special) => text.includes(special));
  }

  /** Ids of a text. Added tokens written out in it become their ids. */
  encode(text) {
    const parts = this.addedPattern ? text.split(this.addedPattern) : [text];
    // Splitting at a captured pattern gives text and tokens in turns.
    return parts.flatMap((part, i) => (i % 2 === 1 ? [this.ids.get(part)] : this.#encodeOrdinary(part)));
  }

  #encodeOrdinary(text) {
    const runs = this.singleDigits ? text.split(/(\p{N})/u).filter(Boolean) : [text];
    return runs.flatMap((run) => [...run.matchAll(PIECES)].flatMap(([piece]) => this.#encodePiece(piece)));
  }

  #encodePiece(piece) {
    let ids = this.words.get(piece);
    if (!ids) {
      ids = this.#merge([...new TextEncoder().encode(piece)].map((b) => CHARACTERS[b]));
      this.words.set(piece, ids);
    }
    return ids;
  }

  /** Joins neighbours, those of the lowest rank first, the leftmost of equals. */
  #merge(symbols) {
    const whole = symbols.join("");
    if (this.wholeWords && this.ids.has(whole)) {
      return [this.ids.get(whole)];
    }
    const parts = [...symbols];
    for (;;) {
      let best = -1;
      let lowest = Infinity;
      for (let i = 0; i + 1 < parts.length; i += 1) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < lowest) {
          [best, lowest] = [i, rank];
        }
      }
      if (best < 0) {
        break;
      }
      parts.splice(best, 2, parts[best] + parts[best + 1]);
    }
    return parts.map((part) => {
      const id = this.ids.get(part);
      if (id === undefined) {
        throw new Error(`the vocabulary has no token for ${JSON.stringify(part)}`);
      }
      return id;
    });
  }

  /** Bytes that a token stands for. An added token may have characters that spell no byte: it stands for itself. */
  bytes(id) {
    const content = this.contents[id];
    if (content === undefined) {
      throw new Error(`token ${id} is not in the vocabulary of ${this.size}`);
    }
    const spelled = [...content].map((c) => BYTE_OF.get(c));
    return spelled.includes(undefined) ? new TextEncoder().encode(content) : Uint8Array.from(spelled);
  }

  /** Turns ids into text one by one; special tokens are left out, and a character that spans tokens comes when it is complete. */
  stream() {
    const decoder = new TextDecoder();
    return {
      push: (id) => (this.special.has(id) ? "" : decoder.decode(this.bytes(id), { stream: true })),
      finish: () => decoder.decode(),
    };
  }
}
