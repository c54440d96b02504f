// Asks the server. The token stands behind the # of the address, which browsers send to nobody.

const token = location.hash.slice(1);

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function ask(path, options = {}) {
  const headers = { "X-Token": token, ...(options.headers || {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  let text = `the server says ${answer.status}`;
  try { text = (await answer.json()).error; } catch { /* no words */ }
  throw new Refused(answer.status, text);
}

const query = (values) => new URLSearchParams(values).toString();

// A length in four bytes, a head of JSON, then arrays one after the other.
async function binary(path) {
  const buffer = await (await ask(path)).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { head, buffer, start: 4 + length };
}

const KINDS = { int16: Int16Array, uint8: Uint8Array, float32: Float32Array };

export async function getList() { return (await ask("/api/list")).json(); }

export async function getPulse(window) {
  return (await ask(`/api/pulse?${query({ window })}`)).json();
}

export async function getSlice(i, z, axis = "axial") {
  const { head, buffer, start } = await binary(`/api/slice?${query({ i, z, axis })}`);
  const count = head.height * head.width;
  const Kind = KINDS[head.dtype];
  const values = new Kind(buffer, start, count);
  const mask = new Uint8Array(buffer, start + count * Kind.BYTES_PER_ELEMENT, count).slice();
  return { ...head, values, mask };
}

export async function getThumb(i) {
  const { buffer, start } = await binary(`/api/thumb?${query({ i })}`);
  const count = (buffer.byteLength - start) / 2;
  return { grey: new Uint8Array(buffer, start, count), mask: new Uint8Array(buffer, start + count, count) };
}

export async function getOpinion(i, z, by) {
  const path = by === "first" ? `/api/first?${query({ i, z })}` : `/api/opinion?${query({ i, z, by })}`;
  const { head, buffer, start } = await binary(path);
  return { classes: head.classes || 0, mask: new Uint8Array(buffer, start) };
}

export async function save(i, z, { mask, width, height, base, did, who }) {
  const path = `/api/save?${query({ i, z, width, height, base, did, who })}`;
  const headers = { "Content-Type": "application/octet-stream" };
  return (await (await ask(path, { method: "POST", body: mask, headers })).json()).version;
}

async function post(path, body) {
  await ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

// One after the other: the server works on several at once, and the last to arrive counts.
let turn = Promise.resolve();

// decided() says what the decision is when its turn has come
export function decide(i, decided, note, who) {
  const mine = turn.then(() => post(`/api/decide?${query({ i })}`, { decision: decided(), note, who }));
  turn = mine.catch(() => {});
  return mine;
}

export const finish = () => post("/api/finish", {});
