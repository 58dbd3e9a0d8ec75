// Ask this model from Node, with onnxruntime-web alone:
//
//   cd javascript && npm install && node predict.mjs ../rows.json
//
// Takes {"rows": [{feature: value}]}, or the bare list; prints the predictions as JSON.

import { readFile } from "node:fs/promises";

import * as ort from "onnxruntime-web";

import { load } from "./millrace.mjs";

ort.env.wasm.numThreads = 1;

const bundled = (name) => readFile(new URL(`../${name}`, import.meta.url));

const model = await load({
  ort,
  manifest: JSON.parse(await bundled("manifest.json")),
  signature: await bundled("signature.json"),
  onnx: await bundled("model.onnx"),
});
const document = JSON.parse(await readFile(process.argv[2], "utf-8"));
const predictions = await model.predict(Array.isArray(document) ? document : document.rows);
console.log(JSON.stringify({ model: model.name, version: model.version, predictions }));
