// onnxruntime-web in headless Chromium: a page from a server on this machine loads the library, the model and the feeds.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { existsSync, readFileSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { main } from "./tensors.mjs";

const modules = process.env.DIRNET_NODE_MODULES;
const puppeteer = createRequire(modules + "/")("puppeteer-core");
const MEDIA = { ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm" };

function serve(model) {
  const server = createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname.slice(1));
    const file = { "": null, model, "model.data": model + ".data" }[name];
    if (name === "") return response.setHeader("Content-Type", "text/html").end("<!doctype html><title>model</title>");
    const path = file ?? join(modules, "onnxruntime-web", "dist", basename(name));
    if (!existsSync(path)) return response.writeHead(404).end();
    response.setHeader("Content-Type", MEDIA[extname(path)] ?? "application/octet-stream").end(readFileSync(path));
  });
  return new Promise((ready) => server.listen(0, "127.0.0.1", () => ready([server, server.address().port])));
}

// In the page; values cross as plain arrays, integers of 64 bits as text.
async function runInPage(feeds, side) {
  const ort = await import("/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  const externalData = side ? [{ path: side, data: "/model.data" }] : [];
  const session = await ort.InferenceSession.create("/model", { logSeverityLevel: 4, externalData });
  const values = feeds.map(({ name, type, dims, data }) => {
    return [name, new ort.Tensor(type, type === "int64" ? data.map(BigInt) : data, dims)];
  });
  const outputs = await session.run(Object.fromEntries(values));
  return Object.entries(outputs).map(([name, { type, dims, data }]) => {
    return { name, type, dims, data: Array.from(data, type === "int64" ? String : Number) };
  });
}

const ARRAYS = { float32: Float32Array, float64: Float64Array, int32: Int32Array, float16: Uint16Array, bool: Uint8Array };
const typed = (type, data) => (type === "int64" ? BigInt64Array.from(data, BigInt) : ARRAYS[type].from(data));

main(async (model, feeds) => {
  const [server, port] = await serve(model);
  const browser = await puppeteer.launch({
    executablePath: process.env.DIRNET_CHROMIUM, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${port}/`);
    const plain = Object.entries(feeds).map(([name, { type, dims, data }]) => {
      return { name, type, dims, data: Array.from(data, type === "int64" ? String : Number) };
    });
    const side = existsSync(model + ".data") ? basename(model) + ".data" : null;
    const outputs = await page.evaluate(runInPage, plain, side);
    return Object.fromEntries(outputs.map(({ name, type, dims, data }) => [name, { type, dims, data: typed(type, data) }]));
  } finally {
    await browser.close();
    server.close();
  }
});
