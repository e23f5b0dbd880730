// Stock @grpc/grpc-js pushes to stock `ws` clients: every way to push, on the common port and on the shards' own.
// The gateway's addresses come from the environment: RINGWAY_TEST_WS and RINGWAY_TEST_GRPC.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { xxhash3 } from "hash-wasm";
import WebSocket from "ws";

const PROTO = fileURLToPath(new URL("../../proto", import.meta.url));
const OPTIONS = { includeDirs: [PROTO], longs: String, enums: String, defaults: true, oneofs: true };
const { ringway } = grpc.loadPackageDefinition(loader.loadSync("ringway/v1/gateway.proto", OPTIONS));
const health = grpc.loadPackageDefinition(loader.loadSync("grpc/health/v1/health.proto", OPTIONS)).grpc.health.v1;

const USERS = Array.from({ length: 100 }, (_, n) => `node-${n}`);
const MESSAGES = 100_000;
const PER_USER = MESSAGES / USERS.length;
const PAYLOAD_BYTES = 128;

const common = process.env.RINGWAY_TEST_GRPC;
const host = common.slice(0, common.lastIndexOf(":"));
const clients = new Map();

before(() => Promise.all(USERS.map(openClient)));
after(() => clients.forEach(({ socket }) => socket.close()));

test("Describe tells the shards", async () => {
  const described = await call(stub(common), "Describe", {});
  assert.equal(described.shards, 2);
  assert.equal(described.shardAddresses.length, 2);
  assert.notEqual(described.epoch, "0");
});

test("the gateway is healthy", async () => {
  const client = new health.Health(common, grpc.credentials.createInsecure());
  assert.equal((await call(client, "Check", {})).status, "SERVING");
});

test("Push: text stays text, binary binary", async () => {
  const binary = Buffer.from([0, 255, 1]);
  const messages = take(USERS[0], 2);
  for (const request of [{ payload: Buffer.from("zwölf") }, { payload: binary, kind: "PAYLOAD_KIND_BINARY" }]) {
    assertCounts(await call(stub(common), "Push", { userId: USERS[0], ...request }), 1, 1);
  }
  assert.deepEqual(await messages, [{ text: "zwölf" }, { binary }]);
});

test("PushMany counts what was taken, delivered and refused", async () => {
  const all = USERS.map((user) => take(user, 1));
  const messages = [
    { everyone: {}, payload: Buffer.from("all") },
    { userId: "nobody", payload: Buffer.from("none") },
    { payload: Buffer.from("no target") },
  ];
  const answer = await call(stub(common), "PushMany", { messages });
  assert.deepEqual(answer, { accepted: "2", delivered: "100", noTarget: "1", dropped: "0", rejected: "1" });
  for (const got of await Promise.all(all)) assert.deepEqual(got, [{ text: "all" }]);
});

test("PushStream of 100,000 messages through the common port", async () => {
  const all = USERS.map((user) => take(user, PER_USER));
  assertCounts(await pushStream(stub(common), USERS), MESSAGES, MESSAGES);
  await assertCompleteAndInOrder(all);
});

test("PushStream of 100,000 messages through the ports of the shards", async () => {
  const { shards, shardAddresses } = await call(stub(common), "Describe", {});
  const own = shardAddresses.map(() => []);
  for (const user of USERS) own[await shardOf(user, shards)].push(user);
  const all = USERS.map((user) => take(user, PER_USER));
  const answers = await Promise.all(
    shardAddresses.map((address, shard) => {
      const dialled = address.startsWith(":") ? host + address : address;
      return pushStream(stub(dialled), own[shard]);
    }),
  );
  answers.forEach((answer, shard) => assertCounts(answer, own[shard].length * PER_USER, own[shard].length * PER_USER));
  await assertCompleteAndInOrder(all);
});

function stub(address) {
  return new ringway.v1.GatewayService(address, grpc.credentials.createInsecure());
}

async function shardOf(user, shards) {
  return Number((BigInt(`0x${await xxhash3(user)}`) * BigInt(shards)) >> 64n);
}

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

function openClient(user) {
  const socket = new WebSocket(`ws://${process.env.RINGWAY_TEST_WS}/ws?user=${user}`, { perMessageDeflate: false });
  const client = { socket, received: [], wanted: null };
  clients.set(user, client);
  socket.on("message", (data, isBinary) => {
    client.received.push(isBinary ? { binary: data } : { text: data.toString() });
    serve(client);
  });
  return new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
}

/** The next `count` messages of a user, as soon as there are so many. */
function take(user, count) {
  const client = clients.get(user);
  return new Promise((resolve) => {
    client.wanted = { count, resolve };
    serve(client);
  });
}

function serve(client) {
  if (client.wanted === null || client.received.length < client.wanted.count) return;
  const { count, resolve } = client.wanted;
  client.wanted = null;
  resolve(client.received.splice(0, count));
}

/** PER_USER messages to each user, taking turns; one message a frame, since each `write` is one. */
function pushStream(client, users) {
  return new Promise((resolve, reject) => {
    const stream = client.PushStream((error, answer) => (error ? reject(error) : resolve(answer)));
    let next = 0;
    const total = PER_USER * users.length;
    const write = () => {
      while (next < total) {
        const user = users[next % users.length];
        const more = stream.write({ userId: user, payload: payload(user, Math.floor(next++ / users.length)) });
        if (!more) return stream.once("drain", write);
      }
      stream.end();
    };
    write();
  });
}

function payload(user, n) {
  return Buffer.from(`${user} ${String(n).padStart(6, "0")}`.padEnd(PAYLOAD_BYTES, "."));
}

async function assertCompleteAndInOrder(all) {
  for (const [at, messages] of (await Promise.all(all)).entries()) {
    messages.forEach(({ text }, n) => assert.equal(text, payload(USERS[at], n).toString()));
  }
}

function assertCounts(answer, accepted, delivered) {
  const counts = { accepted: `${accepted}`, delivered: `${delivered}`, noTarget: "0", dropped: "0", rejected: "0" };
  assert.deepEqual(answer, counts);
}
