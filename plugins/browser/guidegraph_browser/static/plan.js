// Run the plan of a page: operations, graphs, and loops around them, as guidegraph_runtime/running does.

import { describeBounds, isWithin } from "./bounds.js";
import { OPERATIONS } from "./operations.js";
import { PageError, broadcast, stack, takeItem, toTensor, zeros } from "./tensors.js";

/** The run was stopped by the reader. */
export class Stopped extends Error {}

export class PlanRun {
  /**
   * values: by name, at the start of the run. parts: the graphs' inputs. files: bytes by name.
   * call: (part, inputs) runs a graph. note: shows a remark. progress: (done, total, loop), after each iteration of a
   * loop; it may wait, and throws Stopped to end the run.
   */
  constructor({ values, parts, files, call, note, progress }) {
    Object.assign(this, { parts, files, call, note, progress });
    this.values = new Map(Object.entries(values));
  }

  async run(plan) {
    for (const operation of plan) {
      try {
        await this.runOperation(operation);
      } catch (error) {
        if (error instanceof PageError && !error.node) {
          error.node = operation.node;
          error.message = `${operation.node} (${operation.op}): ${error.message}`;
        }
        throw error;
      }
    }
  }

  read(name) {
    if (!this.values.has(name)) throw new PageError(`there is no value '${name}'`);
    return this.values.get(name);
  }

  async runOperation(operation) {
    if (operation.op === "loop") await this.loop(operation);
    else if (operation.op === "part") await this.part(this.findForm(operation));
    else this.compute(operation);
  }

  compute({ op, node, in: inputs, with: settings, unread }) {
    if (unread && unread.every(([name, value]) => Boolean(toTensor(this.read(name)).data[0]) === value)) {
      this.values.set(node, zeros("float32", this.read(inputs.like).dims)); // no graph reads it
      return;
    }
    const operands = Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, this.setting(value)]));
    for (const [port, name] of Object.entries(inputs)) operands[port] = this.read(name);
    const result = OPERATIONS[op](operands, this.note);
    if ("data" in result) this.values.set(node, result);
    else for (const [name, value] of Object.entries(result)) this.values.set(`${node}.${name}`, value);
  }

  /** A literal, or the bytes of the file that it names. */
  setting(value) {
    return value !== null && typeof value === "object" && "file" in value ? this.files[value.file] : value;
  }

  /** The first shorter form of a part whose numbers are those of this step, or the part itself. */
  findForm(operation) {
    const fits = ([name, number]) => toTensor(this.read(name)).data.every((value) => Number(value) === number);
    return operation.body?.find((form) => Object.entries(form.with.when).every(fits)) ?? operation;
  }

  async part({ node, in: inputs, out, ranges = {} }) {
    const values = Object.fromEntries(Object.entries(inputs).map(([port, name]) => [port, this.read(name)]));
    for (const [port, bounds] of Object.entries(ranges)) checkBounds(port, bounds, toTensor(values[port]));
    const tensors = broadcast(this.parts[node].inputs, values);
    for (const [port, { isNoise, dims: [count] = [] }] of Object.entries(values)) {
      const due = tensors[port]?.dims[0];
      if (isNoise && count === 1 && due > 1) throw new PageError(`'${port}' is the noise of one sample where another value has ${due}: make the batch ${due}`);
    }
    let results;
    try {
      results = await this.call(node, tensors);
    } catch (error) {
      throw new PageError(`onnxruntime: ${error.message ?? error}`); // it throws numbers, too
    }
    for (const name of out) this.values.set(name, results[name]);
  }

  async loop(operation) {
    const { in: start, with: { over, item, index, next, collect, result }, body } = operation;
    const sequence = typeof over === "number" ? over : this.read(over);
    const items = Array.isArray(sequence) || sequence?.dims?.length ? sequence : null;
    const total = items ? items.length ?? items.dims[0] : countIterations(sequence);
    const collected = Object.fromEntries(Object.keys(collect).map((name) => [name, []]));
    this.update(start);
    for (let i = 0; i < total; i++) {
      this.values.set(index, BigInt(i));
      this.values.set(item, items ? itemOf(items, i) : BigInt(i));
      await this.run(body);
      for (const [name, source] of Object.entries(collect)) collected[name].push(this.read(source));
      this.update(next);
      await this.progress(i + 1, total, operation);
    }
    this.update(result);
    for (const [name, values] of Object.entries(collected)) this.values.set(name, stack(values.map(toTensor)));
  }

  /** The run as if a loop of the plan had ended after its last iteration; null if that cannot be shown soon. */
  async endEarly(plan, loop) {
    const rest = plan.slice(plan.indexOf(loop) + 1);
    if (!plan.includes(loop) || rest.some(({ op }) => op === "loop") || Object.keys(loop.with.collect).length) return null;
    const early = new PlanRun({ ...this, values: Object.fromEntries(this.values) });
    early.update(loop.with.result);
    await early.run(rest);
    return early;
  }

  /** Copy values to other names, all at once. */
  update(links) {
    const values = Object.entries(links).map(([name, source]) => [name, this.read(source)]);
    for (const [name, value] of values) this.values.set(name, value);
  }
}

function checkBounds(name, bounds, { data }) {
  const outside = data.find((number) => !isWithin(bounds, number));
  if (outside === undefined) return;
  throw new PageError(`'${name}': expected numbers${describeBounds(bounds)}, found ${outside}`);
}

/** The number of iterations: a BigInt, a number, or a tensor without axes. */
function countIterations(value) {
  const count = Number(value?.data ? value.data[0] : value);
  if (count < 0) throw new PageError(`expected 0 or more iterations, found ${count}`);
  return count;
}

/** The item of an iteration; a number of a tensor keeps an axis of 1, for all samples. */
function itemOf(items, i) {
  if (Array.isArray(items)) return items[i];
  const item = takeItem(items, i);
  return items.dims.length === 1 ? { ...item, dims: [1] } : item;
}
