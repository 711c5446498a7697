// Asks an Easel gateway for a picture, follows the task to its end, fetches the pictures, and takes the webhook.
//
//     npm ci && npx tsc
//     EASEL_URL=http://127.0.0.1:8080 EASEL_API_KEY=… node dist/client.js a little cat
//
// Every call may break off at any moment and is then made again: the idempotency key makes one task of all of them, the
// last event's number goes on where the stream broke off, and a picture counts when its SHA-256 is right. A service needs
// either the stream or the webhook; this shows both.

import { createHash, createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { createServer, type IncomingHttpHeaders } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

// What this program reads of a task; openapi.json has all of it.
interface Image {
  index: number;
  url: string;
  media_type: string;
  sha256: string;
}
interface Task {
  id: string;
  status: "queued" | "in_progress" | "succeeded" | "failed" | "canceled";
  finished_at: string | null;
  images: Image[];
  cost: { actual_usd: string | null };
  error: { code: string; detail: string } | null;
}
interface Letter {
  type: string;
  data: { task: Task };
}

const gateway = process.env.EASEL_URL ?? "http://127.0.0.1:8080";
const key = process.env.EASEL_API_KEY;
// Where this program takes webhooks; the gateway must be allowed to reach it (net.allow_private).
const hookPort = Number(process.env.HOOK_PORT ?? 9000);
const tries = 8;
// Above the gateway's heartbeat of 15 s: a stream that is silent for longer is dead.
const patience = 45_000;
const ends = ["task.succeeded", "task.failed", "task.canceled"];

/** The gateway's problem document: asking again will not help. */
class Refused extends Error {}

/** An answer that passes by itself. */
class Later extends Error {
  constructor(message: string, readonly pause: number) {
    super(message);
  }
}

/** Calls until there is an answer. Safe for all that is called here, the idempotency key included. */
async function insist<T>(call: () => Promise<T>): Promise<T> {
  for (let attempt = 0; attempt < tries; attempt++) {
    try {
      return await call();
    } catch (failure) {
      if (failure instanceof Refused) throw failure;
      const pause = failure instanceof Later ? failure.pause : Math.min(200 * 2 ** attempt, 5_000);
      console.error(`${failure}; again in ${pause} ms`);
      await sleep(pause);
    }
  }
  throw new Refused(`gave up after ${tries} tries`);
}

/** One request to the gateway; the answer's body is still to be read. */
async function send(path: string, init: RequestInit = {}, signal = AbortSignal.timeout(patience)): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key) headers.set("authorization", `Bearer ${key}`);
  if (init.body) headers.set("content-type", "application/json");
  const answer = await fetch(gateway + path, { ...init, headers, signal });
  if (answer.ok) return answer;
  const problem = await answer.text();
  if (![408, 429].includes(answer.status) && answer.status < 500) throw new Refused(problem);
  throw new Later(`${answer.status}: ${problem}`, 1_000 * Number(answer.headers.get("retry-after") ?? 2));
}

async function read<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await send(path, init)).json()) as T;
}

/** The events after number `seen`, as they come. */
async function* events(path: string, seen: string): AsyncGenerator<Map<string, string>> {
  const silence = new AbortController();
  const headers = { accept: "text/event-stream", "last-event-id": seen };
  let timer = setTimeout(() => silence.abort(), patience);
  try {
    const answer = await send(path, { headers }, silence.signal);
    let text = "";
    for await (const piece of (answer.body ?? new ReadableStream()).pipeThrough(new TextDecoderStream())) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), patience);
      text += piece;
      const whole = text.split("\n\n");
      text = whole.pop() ?? "";
      for (const event of whole) {
        const lines = event.split("\n").filter((line) => line && !line.startsWith(":"));
        const fields = lines.map((line): [string, string] => {
          const [, name = "", value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
          return [name, value];
        });
        if (fields.length > 0) yield new Map(fields);
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

/** The task when it has ended. */
async function follow(task: Task): Promise<Task> {
  const path = `/tasks/${task.id}`;
  let seen = "0";
  return insist(async () => {
    for await (const event of events(`${path}/events`, seen)) {
      const name = event.get("event") ?? "";
      seen = event.get("id") ?? seen;
      if (name) console.log(name);
      if (ends.includes(name)) return JSON.parse(event.get("data") ?? "") as Task;
    }
    // Broken off, or all was seen before: the task itself says which.
    const ended = await read<Task>(path);
    if (ended.finished_at === null) throw new Error("the stream ended before the task did");
    return ended;
  });
}

/** A picture's bytes. Its link is signed: the key stays at home. */
async function download(image: Image): Promise<Buffer> {
  const answer = await fetch(image.url, { signal: AbortSignal.timeout(patience) });
  if (!answer.ok) throw new Error(`${answer.status} for ${image.url}`);
  const picture = Buffer.from(await answer.arrayBuffer());
  const digest = createHash("sha256").update(picture).digest("hex");
  if (digest !== image.sha256) throw new Error(`not the bytes the task speaks of: ${image.url}`);
  return picture;
}

/** Checks a webhook by the Standard Webhooks specification, over the bytes as they came. */
function verify(secret: string, headers: IncomingHttpHeaders, body: Buffer): Letter {
  const said = (name: string) => String(headers[name] ?? "");
  const [id, timestamp] = [said("webhook-id"), said("webhook-timestamp")];
  // Not a number fails here, too.
  if (!(Math.abs(Date.now() / 1_000 - Number.parseInt(timestamp, 10)) <= 300)) throw new Error("too old or too new");
  const mac = createHmac("sha256", Buffer.from(secret.replace(/^whsec_/, ""), "base64"));
  const expected = mac.update(`${id}.${timestamp}.`).update(body).digest();
  // Several while a secret is being exchanged; one that holds is enough.
  for (const signature of said("webhook-signature").split(" ")) {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    if (signature.startsWith("v1,") && given.length === expected.length && timingSafeEqual(given, expected)) {
      return JSON.parse(body.toString()) as Letter;
    }
  }
  throw new Error("no signature holds");
}

/** Listens; `taken` hears of each letter once, after its signature was found right. */
async function takeWebhooks(secret: string, taken: (letter: Letter) => void): Promise<() => void> {
  const seen = new Set<string>();
  const server = createServer(async (request, response) => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    try {
      const letter = verify(secret, request.headers, Buffer.concat(pieces));
      const id = String(request.headers["webhook-id"]);
      // Delivered at least once: what was seen is acknowledged and dropped.
      if (!seen.has(id)) taken(letter);
      seen.add(id);
      response.writeHead(204).end();
    } catch (forged) {
      console.log(`refused a webhook: ${forged}`);
      response.writeHead(400).end();
    }
  });
  await new Promise<void>((listening) => server.listen(hookPort, "127.0.0.1", listening));
  return () => {
    server.close();
    server.closeAllConnections();
  };
}

async function main(prompt: string): Promise<void> {
  const { secret } = await insist(() => read<{ secret: string }>("/webhooks/secret"));
  const letters: Letter[] = [];
  const close = await takeWebhooks(secret, (letter) => letters.push(letter));
  const webhook = { url: `http://127.0.0.1:${hookPort}/` };
  const body = JSON.stringify({ prompt, model: "flux-schnell", webhook });
  // Made once per picture wanted, and kept with it: after a restart the same key finds the same task.
  const headers = { "idempotency-key": randomUUID() };
  const task = await follow(await insist(() => read<Task>("/generate", { method: "POST", headers, body })));
  if (task.status !== "succeeded") throw new Refused(`${task.status}: ${JSON.stringify(task.error)}`);
  for (const image of task.images) {
    const picture = await insist(() => download(image));
    const name = `${task.id}-${image.index}.${image.media_type.split("/")[1]}`;
    await writeFile(name, picture);
    console.log(`${name}: ${picture.length} bytes, SHA-256 as told`);
  }
  const due = Date.now() + 60_000;
  let letter: Letter | undefined;
  while (!(letter = letters.find((one) => one.data.task.id === task.id))) {
    if (Date.now() > due) throw new Refused("no webhook came");
    await sleep(50);
  }
  console.log(`webhook ${letter.type}, signature verified; the task cost $${task.cost.actual_usd}`);
  close();
}

main(process.argv.slice(2).join(" ") || "a little cat").catch((failure: unknown) => {
  console.error(failure instanceof Refused ? `refused: ${failure.message}` : failure);
  process.exit(1);
});
