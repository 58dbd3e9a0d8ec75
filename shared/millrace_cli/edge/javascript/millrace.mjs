// A Millrace model with onnxruntime-web: the same module in a browser and in Node.
//
//   const model = await load({ ort, manifest, signature, onnx });
//   const [answer] = await model.predict([{ age: 41, plan: "basic" }]);
//
// `signature` and `onnx` are the bytes of signature.json and model.onnx (Uint8Array). A row has
// every feature of the signature, null where there is no value. The answers are those of the
// Millrace service for the same rows.

const WHITESPACE = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\ufeff";
const MAX_FLOAT = 3.4028234663852886e38;

/**
 * Checks model and signature against the manifest and loads the model.
 *
 * @param {{ort: object, manifest: object, signature: Uint8Array, onnx: Uint8Array}} from
 *     `ort` is the onnxruntime-web module.
 * @returns {Promise<Model>}
 */
export async function load({ ort, manifest, signature, onnx }) {
  await verify(manifest, "signature.json", signature);
  await verify(manifest, "model.onnx", onnx);
  const session = await ort.InferenceSession.create(onnx, { executionProviders: ["wasm"] });
  return new Model(ort, manifest, JSON.parse(new TextDecoder().decode(signature)), session);
}

async function verify(manifest, path, bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const came = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (manifest.files.find((file) => file.path === path)?.sha256 !== came) {
    throw new Error(`${path} is not the file that was exported`);
  }
}

function strip(text) {
  let [start, end] = [0, text.length];
  while (start < end && WHITESPACE.includes(text[start])) start += 1;
  while (end > start && WHITESPACE.includes(text[end - 1])) end -= 1;
  return text.slice(start, end);
}

export class Model {
  constructor(ort, manifest, signature, session) {
    this.ort = ort;
    this.name = manifest.model;
    this.version = manifest.version;
    this.signature = signature;
    this.session = session;
    this.numeric = signature.features.filter((feature) => feature.type !== "string");
    this.texts = signature.features.filter((feature) => feature.type === "string");
    this.null = new Set(["", ...signature.null_values.map(strip)]);
  }

  /** One prediction per row: label and probabilities, or the value of a regression. */
  async predict(rows) {
    const names = new Set(this.signature.features.map((feature) => feature.name));
    rows.forEach((row, index) => {
      for (const name of names) {
        if (!Object.hasOwn(row, name)) throw new Error(`row ${index}: ${name} is missing`);
      }
      for (const name of Object.keys(row)) {
        if (!names.has(name)) throw new Error(`row ${index}: ${name} is no feature`);
      }
    });
    const inputs = {};
    if (this.numeric.length) {
      const values = rows.flatMap((row, index) =>
        this.numeric.map((feature) => number(feature, row[feature.name], index)),
      );
      inputs.numeric = new this.ort.Tensor("float32", Float32Array.from(values), [
        rows.length,
        this.numeric.length,
      ]);
    }
    if (this.texts.length) {
      const values = rows.flatMap((row, index) =>
        this.texts.map((feature) => this.#text(feature, row[feature.name], index)),
      );
      inputs.categorical = new this.ort.Tensor("string", values, [rows.length, this.texts.length]);
    }
    const outputs = await this.session.run(inputs);
    const [output] = Object.values(outputs);
    const classes = this.signature.classes;
    if (!classes.length) return Array.from(output.data, (value) => ({ value }));
    return rows.map((_, index) => {
      const row = output.data.slice(index * classes.length, (index + 1) * classes.length);
      const best = row.indexOf(Math.max(...row));
      return {
        label: this.#label(classes[best]),
        probabilities: Object.fromEntries(classes.map((name, at) => [name, row[at]])),
      };
    });
  }

  #text(feature, value, row) {
    if (typeof value === "string" || (value === null && feature.nullable)) {
      let text = strip(value ?? "");
      if (this.null.has(text)) text = "";
      const allowed = (text || feature.nullable) && !text.includes("\0");
      if (allowed && this.#known(feature, text)) return text;
    }
    throw new Error(`row ${row}: ${feature.name}: expected string`);
  }

  // By default, texts that were never seen in training may be asked about, too.
  #known(feature, text) {
    if (this.signature.unknown_categories !== "refuse" || text === "") return true;
    return feature.categories?.includes(text) ?? true;
  }

  #label(text) {
    switch (this.signature.target_type) {
      case "integer":
        return Number(text);
      case "boolean":
        return ["true", "1"].includes(text.toLowerCase());
      default:
        return text;
    }
  }
}

function number(feature, value, row) {
  if (value === null && feature.nullable) return NaN;
  let fits = typeof value === (feature.type === "boolean" ? "boolean" : "number");
  if (feature.type === "integer") fits &&= Number.isSafeInteger(value);
  if (!fits || !(Math.abs(Number(value)) <= MAX_FLOAT)) {
    throw new Error(`row ${row}: ${feature.name}: expected ${feature.type} of 32-bit precision`);
  }
  return Number(value);
}
