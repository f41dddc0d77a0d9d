// One call of a single file in Node, on the example inputs beside it: node run.mjs FILE.onnx FOLDER
// Writes each output's numbers to FOLDER/NAME.bin and prints their types and shapes as JSON.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';

const arrays = {
  bool: Uint8Array,
  uint8: Uint8Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float32: Float32Array,
  float64: Float64Array,
};

const [file, folder] = process.argv.slice(2);
const described = JSON.parse(readFileSync(file.replace(/\.onnx$/, '.json'), 'utf8'));
const data = readFileSync(file.replace(/\.onnx$/, '.bin'));

const inputs = {};
for (const [name, { dtype, example }] of Object.entries(described.inputs)) {
  const start = data.byteOffset + example.offset;
  const numbers = new arrays[dtype](data.buffer.slice(start, start + example.bytes));
  inputs[name] = new ort.Tensor(dtype, numbers, example.shape);
}

const session = await ort.InferenceSession.create(file, { intraOpNumThreads: 1 });
const outputs = await session.run(inputs);

mkdirSync(folder, { recursive: true });
const told = {};
for (const [name, { type, dims, data: numbers }] of Object.entries(outputs)) {
  writeFileSync(join(folder, `${name}.bin`), new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
  told[name] = { type, dims };
}
console.log(JSON.stringify(told));
