// onnxruntime-node: the native library in Node.
import { createRequire } from "node:module";
import { main } from "./tensors.mjs";

const ort = createRequire(process.env.DIRNET_NODE_MODULES + "/")("onnxruntime-node");

main(async (model, feeds) => {
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 4 });
  const values = Object.entries(feeds).map(([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)]);
  return session.run(Object.fromEntries(values));
});
