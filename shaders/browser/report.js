// The structured report in a model's answer: the rules of `Report::parse` in model/src/prompt/report.rs.

/** The fields in the order of the answer. */
export const FIELDS = ["Image Labels", "Gender", "Age", "Image Caption"];

const UNKNOWN = ["unknown", "nan", "none", "n/a", "null"];

/** Whether a field may begin after `before`: at the start, after `|`, a line end, or two spaces. */
function afterSeparator(before) {
  const trimmed = before.trimEnd();
  const gap = before.slice(trimmed.length);
  return trimmed === "" || trimmed.endsWith("|") || /[\n\t]/.test(gap) || gap.length >= 2;
}

/** First occurrences of the fields' names, in order of place. */
function starts(answer) {
  const found = FIELDS.flatMap((field) => {
    for (const match of answer.matchAll(new RegExp(`${field} *:`, "gi"))) {
      if (afterSeparator(answer.slice(0, match.index))) {
        return [{ field, name: match.index, value: match.index + match[0].length }];
      }
    }
    return [];
  });
  return found.sort((a, b) => a.name - b.name);
}

/** The number at the start of `29.0`, `29`, `29 years`. */
function years(value) {
  const number = /^\d+(\.\d+)?|^\.\d+/.exec(value);
  const age = number ? Number(number[0]) : NaN;
  return age >= 0 && age <= 150 ? age : null;
}

/**
 * Reads an answer, complete or still growing. Fields may come in any order and case, and be separated by `|`, line ends or two spaces.
 * @returns {Map<string, {value: string | string[] | null, state: "given" | "unknown" | "missing" | "unreadable"}>} by field
 */
export function parseReport(answer) {
  const places = starts(answer);
  return new Map(FIELDS.map((field) => {
    const at = places.findIndex((start) => start.field === field);
    if (at < 0) {
      return [field, { value: null, state: "missing" }];
    }
    const end = places[at + 1]?.name ?? answer.length;
    let value = answer.slice(places[at].value, end).replace(/^[\s|]+|[\s|]+$/g, "");
    if (field !== "Image Caption") {
      value = value.split(/[|\n]/)[0].trim();
    }
    if (value === "") {
      return [field, { value: null, state: "missing" }];
    }
    if (UNKNOWN.includes(value.replace(/\.+$/, "").toLowerCase())) {
      return [field, { value: null, state: "unknown" }];
    }
    if (field === "Image Labels") {
      const labels = value.split(",").map((label) => label.trim()).filter(Boolean);
      return [field, labels.length > 0 ? { value: labels, state: "given" } : { value, state: "unreadable" }];
    }
    if (field === "Age") {
      const age = years(value);
      return [field, age === null ? { value, state: "unreadable" } : { value: age.toFixed(1), state: "given" }];
    }
    return [field, { value, state: "given" }];
  }));
}
