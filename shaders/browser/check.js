// `?check`: every variant of every kernel through the browser's own shader compiler. The texts come from the Rust side
// (`?variants=PATH`, as tests/browser serves them) so that exactly the native ones are checked.

import { browserText } from "./launch.js";
import { Device } from "./device.js";

/** Variants that are compiled at a time. */
const AT_ONCE = 8;

/** Compiles one text, down to the device's own code if `pipeline`; messages of the browser's compiler, empty if it is content. */
async function compile(device, { text, pipeline }) {
  const { raw } = device;
  const module = raw.createShaderModule({ code: browserText(text) });
  const { messages } = await module.getCompilationInfo();
  const found = messages.map(({ type, lineNum, linePos, message }) => `${type} at ${lineNum}:${linePos}: ${message}`);
  if (!pipeline || messages.some(({ type }) => type === "error")) {
    return found;
  }
  try {
    await raw.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
  } catch (e) {
    found.push(`pipeline: ${e.message}`);
  }
  return found;
}

/**
 * Compiles all variants and shows what came of it.
 * @param {HTMLElement} main where to show it
 * @param {string | null} path of `[{name, text, pipeline}]` in JSON
 */
export async function checkShaders(main, path) {
  main.className = "check";
  if (!path) {
    throw new Error("?check needs ?variants=PATH, a list of assembled kernels; `cargo test --release --test browser` serves one");
  }
  const url = new URL(path, location.href);
  if (url.origin !== location.origin) {
    throw new Error("variants must come from this page's own server");
  }
  const variants = await (await fetch(url)).json();
  // WebGPU's default limits: what every browser has.
  const device = await Device.open({ defaultLimits: true });
  const started = performance.now();
  const refused = [];
  let done = 0;
  const queue = [...variants];
  const work = async () => {
    for (let variant = queue.shift(); variant; variant = queue.shift()) {
      const messages = await compile(device, variant);
      if (messages.length > 0) {
        refused.push({ name: variant.name, messages });
      }
      done += 1;
      main.textContent = `${done} of ${variants.length} kernels compiled on ${device.name}; ${refused.length} with messages`;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  for (const { name, messages } of refused) {
    const block = document.createElement("pre");
    block.textContent = `${name}\n${messages.join("\n")}`;
    main.append(block);
  }
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  return { adapter: device.name, checked: variants.length, refused, problem: device.problem, seconds };
}
