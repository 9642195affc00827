// safetensors files, read and written: name -> { type, dims, data }, with onnxruntime's names of types.
import { readFileSync, writeFileSync } from "node:fs";

const TYPES = {
  F32: ["float32", Float32Array], F16: ["float16", Uint16Array], F64: ["float64", Float64Array], BOOL: ["bool", Uint8Array],
  I64: ["int64", BigInt64Array], I32: ["int32", Int32Array], I8: ["int8", Int8Array], U8: ["uint8", Uint8Array],
};

export function read(path) {
  const file = readFileSync(path);
  const begin = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, begin).toString());
  return Object.fromEntries(Object.entries(header).map(([name, { dtype, shape, data_offsets: [a, b] }]) => {
    const [type, Values] = TYPES[dtype];
    const bytes = Uint8Array.from(file.subarray(begin + a, begin + b)); // a copy, so that it is aligned
    return [name, { type, dims: shape, data: new Values(bytes.buffer) }];
  }));
}

export function write(path, tensors) {
  const header = {}, parts = [];
  let end = 0;
  for (const [name, { type, dims, data }] of Object.entries(tensors)) {
    const [dtype] = Object.entries(TYPES).find(([, [t]]) => t === type);
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    header[name] = { dtype, shape: dims, data_offsets: [end, (end += bytes.length)] };
    parts.push(bytes);
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

// An adapter: `run(model, feeds) -> outputs`, as in adapter.py.
export async function main(run) {
  const [model, feeds, outputs] = process.argv.slice(2);
  try {
    write(outputs, await run(model, read(feeds)));
    process.exit(0);
  } catch (error) {
    console.error(String(error?.message ?? error).replace(/\s+/g, " "));
    process.exit(1);
  }
}
