// Tensors {dtype, dims, data}: read from safetensors, cast, and broadcast to the inputs of a graph.

const ARRAYS = { bool: Uint8Array, int32: Int32Array, int64: BigInt64Array, uint64: BigUint64Array, float32: Float32Array, float64: Float64Array };
const STORED = { BOOL: "bool", I32: "int32", I64: "int64", U64: "uint64", F32: "float32", F64: "float64" };

/** An error for the reader of the page. */
export class PageError extends Error {}

export function countElements(dims) {
  return dims.reduce((product, size) => product * size, 1);
}

export function zeros(dtype, dims) {
  return { dtype, dims, data: new ARRAYS[dtype](countElements(dims)) };
}

/** A value of a run as a tensor: BigInt for an integer, number, boolean, a list of these, or a tensor already. */
export function toTensor(value) {
  if (Array.isArray(value)) {
    const items = value.map(toTensor);
    const dtype = ["float64", "uint64", "int64", "bool"].find((name) => items.some((item) => item.dtype === name)) ?? "float64";
    return { dtype, dims: [items.length], data: ARRAYS[dtype].from(items, (item) => cast(item, dtype).data[0]) };
  }
  if (typeof value === "bigint" && value >= 2n ** 63n) return { dtype: "uint64", dims: [], data: BigUint64Array.of(value) };
  if (typeof value === "bigint") return { dtype: "int64", dims: [], data: BigInt64Array.of(value) };
  if (typeof value === "number") return { dtype: "float64", dims: [], data: Float64Array.of(value) };
  if (typeof value === "boolean") return { dtype: "bool", dims: [], data: Uint8Array.of(value) };
  return value;
}

export function cast(tensor, dtype) {
  if (tensor.dtype === dtype) return tensor;
  const toInteger = (x) => (typeof x === "bigint" ? x : BigInt(Math.trunc(Number(x))));
  const convert = dtype === "int64" || dtype === "uint64" ? toInteger : dtype === "bool" ? (x) => Number(x) !== 0 : Number;
  return { dtype, dims: tensor.dims, data: ARRAYS[dtype].from(tensor.data, convert) };
}

/** A whole number of at least `low`, as BigInt: a BigInt, a number, the text of one, or a tensor without axes. */
export function readInteger(name, value, low) {
  const content = value?.data && !value.dims.length ? value.data[0] : value;
  const isInteger = typeof content === "bigint" || Number.isInteger(content) || /^-?\d+$/.test(content);
  if (!isInteger) {
    const found = content?.dims ? `an array (${content.dims})` : String(content);
    throw new PageError(`${name}: expected a whole number of at least ${low}, found ${found}`);
  }
  const integer = BigInt(content);
  if (integer < low) throw new PageError(`${name}: expected at least ${low}, found ${integer}`);
  return integer;
}

/** Item i along the first axis. */
export function takeItem({ dtype, dims, data }, i) {
  const size = countElements(dims.slice(1));
  return { dtype, dims: dims.slice(1), data: data.slice(i * size, (i + 1) * size) };
}

/** Tensors of one shape along a new first axis; without tensors an empty one, as in the runtime. */
export function stack(tensors) {
  if (!tensors.length) return zeros("float32", [0]);
  const [{ dtype, dims }] = tensors;
  const size = countElements(dims);
  const result = zeros(dtype, [tensors.length, ...dims]);
  tensors.forEach(({ data }, i) => result.data.set(data, i * size));
  return result;
}

/** The tensors of a safetensors file (ArrayBuffer) by name. */
export function readSafetensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (!(dtype in STORED)) throw new PageError(`'${name}' has the element type ${dtype}, which this page cannot read`);
    const [start, end] = offsets.map((offset) => 8 + size + offset);
    tensors[name] = { dtype: STORED[dtype], dims: shape, data: new ARRAYS[STORED[dtype]](buffer.slice(start, end)) };
  }
  return tensors;
}

/**
 * Cast and broadcast values to the inputs of a graph, as guidegraph_runtime/sessions/broadcasting.py does: a leading
 * axis of 1 is repeated for the batch, and a value with fewer axes is repeated along the missing trailing ones.
 */
export function broadcast(inputs, values) {
  const tensors = Object.fromEntries(inputs.map(({ name }) => [name, toTensor(values[name])]));
  const sizes = axisSizes(inputs, tensors);
  return Object.fromEntries(inputs.map(({ name, dtype, dims }) => {
    const due = dims.map((dim) => (typeof dim === "string" ? sizes[dim] ?? 1 : dim));
    return [name, expand(name, cast(tensors[name], dtype), dims, due)];
  }));
}

/** The size of each named axis. A batch of 1 fits any. */
function axisSizes(inputs, tensors) {
  const sizes = {};
  for (const { name, dims } of inputs) {
    const shape = tensors[name].dims;
    if (shape.length !== dims.length) continue;
    dims.forEach((dim, i) => {
      if (typeof dim !== "string" || (dim === "batch" && shape[i] === 1)) return;
      sizes[dim] ??= shape[i];
      if (sizes[dim] !== shape[i]) {
        throw new PageError(`'${name}' has ${shape[i]} of '${dim}' where another input of the graph has ${sizes[dim]}`);
      }
    });
  }
  return sizes;
}

function expand(name, tensor, dims, due) {
  const lacksAxes = tensor.dims.length < due.length;
  const padded = [...tensor.dims, ...Array(Math.max(due.length - tensor.dims.length, 0)).fill(1)];
  const fits = padded.length === due.length
    && padded.every((size, i) => size === due[i] || (size === 1 && (lacksAxes || dims[i] === "batch")));
  if (!fits) throw new PageError(`'${name}' has the shape (${tensor.dims}) where (${due}) is due`);
  let { data } = tensor;
  for (let axis = due.length - 1; axis >= 0; axis--) {
    if (padded[axis] === due[axis]) continue;
    const inner = countElements(due.slice(axis + 1));
    const outer = countElements(padded.slice(0, axis));
    const repeated = new data.constructor(outer * due[axis] * inner);
    for (let i = 0; i < outer * due[axis]; i++) {
      const row = Math.floor(i / due[axis]) * inner;
      repeated.set(data.subarray(row, row + inner), i * inner);
    }
    data = repeated;
  }
  return { dtype: tensor.dtype, dims: due, data };
}
