// Puts masks on disk, one after the other; what was drawn meanwhile goes with the next.

import { Refused, save } from "./api.js";

const AGAIN_MS = 1500;

export class Saver {
  constructor({ tell, stale, stuck }) {
    Object.assign(this, { tell, stale, stuck, waiting: new Map(), versions: new Map(), running: null });
  }

  key(i, z) { return `${i}/${z}`; }

  setVersion(i, z, version) { this.versions.set(this.key(i, z), version); }

  // job: mask, width, height, did, who
  add(i, z, job) {
    this.waiting.set(this.key(i, z), { i, z, ...job, mask: job.mask.slice() });
    this.tell("saving");
    this.running ||= this.run().finally(() => { this.running = null; });
  }

  get busy() { return this.running !== null; }

  async idle() { while (this.running) await this.running; }

  async run() {
    while (this.waiting.size) {
      const [key, job] = this.waiting.entries().next().value;
      this.waiting.delete(key);
      try {
        this.versions.set(key, await save(job.i, job.z, { ...job, base: this.versions.get(key) }));
        if (!this.waiting.size) this.tell("saved");
      } catch (error) {
        if (error instanceof Refused && error.status === 409) {
          this.waiting.delete(key);
          this.stale(job);
        } else {
          // Still the newest there is, unless something newer waits already.
          if (!this.waiting.has(key)) this.waiting.set(key, job);
          this.stuck(error);
          await new Promise((go) => setTimeout(go, AGAIN_MS));
        }
      }
    }
  }
}
