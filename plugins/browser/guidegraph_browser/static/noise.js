// Gaussian noise from Philox4x64-10 (Salmon et al. 2011): the bits of guidegraph_runtime/noise.py, value for value.
//
// A word of 64 bits is two of 32, low first. Each sample has its own stream, with its seed as the key. The third word
// of the counter is the index of the draw, and the first counts blocks of four words.

export const SEED_LIMIT = 2n ** 64n;
const WORD = 2 ** 32;
const ROUNDS = 10;
const MULTIPLIERS = [[0xe14c6c93, 0xd2e7470e], [0x95121157, 0xca5a8263]];
const WEYL = [[0x7f4a7c15, 0x9e3779b9], [0x84caa73b, 0xbb67ae85]];

// Allocated once, because a block takes less time than its arrays.
const counter = new Uint32Array(8);
const key = new Uint32Array(4);
const first = new Uint32Array(4);
const second = new Uint32Array(4);
const products = [0, 1, 2, 3].map(() => new Uint32Array(2));

/** `count` words of 64 bits from the stream of a seed (BigInt), as 2 · count numbers of a Uint32Array. */
export function rawBits(seed, count, index = null) {
  const draw = index === null ? 0 : index + 1;
  const blocks = Math.ceil(count / 4);
  const words = new Uint32Array(8 * blocks);
  const halves = [Number(seed % 2n ** 32n), Number(seed / 2n ** 32n)];
  for (let block = 0; block < blocks; block++) {
    counter.fill(0);
    counter[0] = block + 1; // NumPy counts before it computes
    counter[4] = draw % WORD;
    counter[5] = Math.floor(draw / WORD);
    philox(halves);
    words.set(counter, 8 * block);
  }
  return words.subarray(0, 2 * count);
}

/** Standard normal noise of one sample of `size` values, a Float32Array. `index` selects the draw, null another one. */
export function gaussian(seed, size, index = null) {
  const bits = rawBits(seed, size + (size % 2), index);
  const values = new Float32Array(size);
  for (let i = 0; i < size; i += 2) {
    // Box & Muller 1958, 53 bits of each word; u₁ in (0, 1], so that the logarithm is finite
    const radius = Math.sqrt(-2 * Math.log((upperBits(bits, i) + 1) * 2 ** -53));
    const angle = upperBits(bits, i + 1) * (2 * Math.PI * 2 ** -53);
    values[i] = radius * Math.cos(angle);
    if (i + 1 < size) values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

/** The upper 53 bits of a word, as a number. */
function upperBits(words, i) {
  return words[2 * i + 1] * 2 ** 21 + (words[2 * i] >>> 11);
}

/** Ten rounds on the counter, in place. */
function philox(seed) {
  key.fill(0);
  key.set(seed);
  for (let round = 0; round < ROUNDS; round++) {
    if (round > 0) {
      add(key, 0, WEYL[0]);
      add(key, 2, WEYL[1]);
    }
    multiply(MULTIPLIERS[0], counter[0], counter[1], first);
    multiply(MULTIPLIERS[1], counter[4], counter[5], second);
    counter[0] = second[2] ^ counter[2] ^ key[0];
    counter[1] = second[3] ^ counter[3] ^ key[1];
    counter[4] = first[2] ^ counter[6] ^ key[2];
    counter[5] = first[3] ^ counter[7] ^ key[3];
    counter[2] = second[0];
    counter[3] = second[1];
    counter[6] = first[0];
    counter[7] = first[1];
  }
}

/** Add a word to the one at `at`, modulo 2⁶⁴. */
function add(words, at, [low, high]) {
  const sum = words[at] + low;
  words[at] = sum;
  words[at + 1] = words[at + 1] + high + (sum >= WORD ? 1 : 0);
}

/** The product of two words as four numbers of 32 bits, lowest first. */
function multiply([low, high], otherLow, otherHigh, result) {
  const [lowLow, lowHigh, highLow, highHigh] = products;
  multiply32(low, otherLow, lowLow);
  multiply32(low, otherHigh, lowHigh);
  multiply32(high, otherLow, highLow);
  multiply32(high, otherHigh, highHigh);
  const second = lowLow[1] + lowHigh[0] + highLow[0];
  const third = lowHigh[1] + highLow[1] + highHigh[0] + Math.floor(second / WORD);
  result[0] = lowLow[0];
  result[1] = second;
  result[2] = third;
  result[3] = highHigh[1] + Math.floor(third / WORD);
}

/** The product of two numbers of 32 bits, low and high half; exact, as no value reaches 2⁵³. */
function multiply32(a, b, result) {
  const upper = (a >>> 16) * b;
  const sum = (a & 0xffff) * b + (upper & 0xffff) * 65536;
  result[0] = sum;
  result[1] = upper / 65536 + Math.floor(sum / WORD);
}
