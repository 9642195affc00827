// onnxruntime-web in Node: the same WebAssembly as in a browser.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { main } from "./tensors.mjs";

const ort = createRequire(process.env.DIRNET_NODE_MODULES + "/")("onnxruntime-web");

main(async (model, feeds) => {
  ort.env.wasm.numThreads = 1;
  const side = model + ".data";
  const externalData = existsSync(side) ? [{ path: basename(side), data: readFileSync(side) }] : [];
  const session = await ort.InferenceSession.create(readFileSync(model), { logSeverityLevel: 4, externalData });
  const values = Object.entries(feeds).map(([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)]);
  return session.run(Object.fromEntries(values));
});
