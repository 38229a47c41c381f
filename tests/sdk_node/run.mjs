// `node run.mjs openai`: runs the flows of a package one after another, a line of JSON for each.
//
// A flow returns what it was told: `told` (usage of the one answered call), `left` (how many tokens
// it had read when it left), `gone` (it left before an answer), or nothing, where it was refused or
// asked for what is free. Of the last two nothing may be billed.

import { witness } from './world.mjs';

const { flows } = await import(`./${process.argv[2]}.mjs`);

for (const [name, flow] of Object.entries(flows)) {
  const { calls, fetch } = witness();
  try {
    console.log(JSON.stringify({ name, calls, ...(await flow(fetch)) }));
  } catch (error) {
    console.log(JSON.stringify({ name, calls, failed: String(error?.stack ?? error) }));
  }
}
