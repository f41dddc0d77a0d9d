// Texts as token ids by a tokenizer.json of whole words, and the words that it does not know.

const UNKNOWN = "[UNK]";
const NEAR = 0.6; // the least likeness of a suggestion
const AS_NEAR = 0.1; // how much less alike than the nearest word another suggestion may be
const LONGEST_WORD = 40;
const NAMED = 20; // the most unknown words that a message names
const LISTED = 120; // the most words that a message lists in full
const SAMPLED = 20;

// Runs of word characters, or of others that are no space: the pre-tokenizer "Whitespace" of the tokenizers package.
const PIECES = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;

export class Words {
  /** tokenizer: the contents of tokenizer.json. length: the number of tokens of a text, by default the tokenizer's. */
  constructor(tokenizer, length = null) {
    this.length = length ?? tokenizer.padding.strategy.Fixed;
    this.pad = tokenizer.padding.pad_id;
    this.lowers = tokenizer.normalizer !== null;
    this.vocabulary = new Map(Object.entries(tokenizer.model.vocab));
    this.unknown = this.vocabulary.get(tokenizer.model.unk_token);
    this.added = new Map((tokenizer.added_tokens ?? []).map(({ content, id }) => [content, id]));
    const contents = [...this.added.keys()].sort((a, b) => b.length - a.length); // the longest of several that fit
    this.cuts = contents.length ? new RegExp(`(${contents.map(escapePattern).join("|")})`, "gu") : null;
    const { single = [{ Sequence: {} }], special_tokens: marks = {} } = tokenizer.post_processor ?? {};
    const idsOf = (item) => (item.SpecialToken ? marks[item.SpecialToken.id].ids : []);
    const middle = single.findIndex((item) => item.Sequence);
    this.before = single.slice(0, middle).flatMap(idsOf);
    this.after = single.slice(middle + 1).flatMap(idsOf);
  }

  /** The ids and mask of a text, and its unknown words. */
  encode(text) {
    const pieces = this.split(text).slice(0, this.length - this.before.length - this.after.length);
    const ids = [...this.before, ...pieces.map(({ id }) => id), ...this.after];
    const padding = Array(this.length - ids.length).fill(0);
    return {
      ids: [...ids, ...padding.map(() => this.pad)],
      mask: [...ids.map(() => 1), ...padding],
      unknown: pieces.filter(({ id, word }) => id === this.unknown && word !== UNKNOWN).map(({ word }) => word),
    };
  }

  /** The words of a text as it was written, with their ids. Added tokens, such as [UNK], are found first, as written. */
  split(text) {
    const parts = this.cuts ? text.split(this.cuts) : [text]; // every other part is an added token
    return parts.flatMap((part, i) => (i % 2 ? [{ id: this.added.get(part), word: part }] : this.splitWords(part)));
  }

  splitWords(text) {
    let lowered = "";
    const origin = []; // for each unit of the lowered text, where its character begins and ends in the text
    let start = 0;
    for (const character of text) {
      const lower = this.lowers ? character.toLowerCase() : character;
      for (let i = 0; i < lower.length; i++) origin.push([start, start + character.length]);
      lowered += lower;
      start += character.length;
    }
    return [...lowered.matchAll(PIECES)].map((match) => ({
      id: this.vocabulary.get(match[0]) ?? this.unknown,
      word: text.slice(origin[match.index][0], origin[match.index + match[0].length - 1][1]),
    }));
  }

  /** The known words, in order: without marks, punctuation and pieces of words. */
  list() {
    return [...new Set([...this.vocabulary.keys(), ...this.added.keys()])].filter((word) => /^\p{L}+$/u.test(word)).sort(byCodePoint);
  }
}

/** What to say about unknown words: suggestions for the first ones, and the known words or a sample of them. */
export function unknownWordsMessage(words, vocabulary) {
  const described = words.slice(0, NAMED).map((full) => {
    const letters = [...full];
    const word = letters.length <= LONGEST_WORD ? full : `${letters.slice(0, LONGEST_WORD).join("")}…`;
    const near = nearWords(word, vocabulary).map((match) => `'${match}'`);
    return near.length ? `'${word}' (did you mean ${near.join(" or ")}?)` : `'${word}'`;
  });
  if (words.length > NAMED) described.push(`and ${words.length - NAMED} more`);
  const stride = Math.floor(vocabulary.length / SAMPLED);
  const known = vocabulary.length <= LISTED
    ? `it knows: ${vocabulary.join(", ")}`
    : `it knows ${vocabulary.length} words, among them: ${
      vocabulary.filter((_, i) => i % stride === 0).slice(0, SAMPLED).join(", ")}`;
  return `words this model was not trained on: ${described.join(", ")}; ${known}`;
}

/** The known words that a word may misspell: the nearest one, and others about as near. */
export function nearWords(word, vocabulary) {
  const lower = [...word.toLowerCase()].slice(0, LONGEST_WORD).join("");
  const near = vocabulary
    .map((candidate) => [likeness(candidate, lower), candidate])
    .filter(([ratio]) => ratio >= NEAR)
    .sort(([a, first], [b, second]) => b - a || byCodePoint(second, first))
    .slice(0, 3);
  return near.filter(([ratio]) => ratio > near[0][0] - AS_NEAR).map(([, match]) => match);
}

/** Twice the number of letters in common blocks, over all letters (Ratcliff & Obershelp 1988), as Python's difflib. */
function likeness(a, b) {
  const [first, second] = [[...a], [...b]];
  const total = first.length + second.length;
  return total ? (2 * countMatches(first, second)) / total : 1;
}

function countMatches(a, b) {
  let [length, startA, startB] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < b.length; j++) {
      let size = 0;
      while (i + size < a.length && j + size < b.length && a[i + size] === b[j + size]) size++;
      if (size > length) [length, startA, startB] = [size, i, j];
    }
  }
  if (!length) return 0;
  const before = countMatches(a.slice(0, startA), b.slice(0, startB));
  return length + before + countMatches(a.slice(startA + length), b.slice(startB + length));
}

function escapePattern(text) {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

function byCodePoint(a, b) {
  const [first, second] = [[...a], [...b]];
  const i = first.findIndex((character, at) => character !== second[at]);
  if (i < 0 || i >= second.length) return first.length - second.length;
  return first[i].codePointAt(0) - second[i].codePointAt(0);
}
