// Two browser tabs on different shards chat on the demo page, until the gateway goes away:
// node chat.mjs PAGE_ADDRESS GATEWAY_PID SCREENSHOT
import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { xxhash3 } from "hash-wasm";

const [address, gateway, screenshot] = process.argv.slice(2);
const SHARDS = 2;
// What a headless Chromium must not do on a machine without the internet.
const QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
  "--no-first-run", "--disable-gpu", "--no-sandbox"];

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: QUIET });
try {
  const context = await browser.newContext({ viewport: { width: 1100, height: 760 } });
  context.setDefaultTimeout(15_000);

  const [left, right] = await namesOnDifferentShards();
  const tabs = {};
  tabs[left] = await joinByHand(context, left);
  tabs[right] = await joinByUrl(context, right);

  for (const name of [left, right]) {
    await waitForText(tabs[name].locator("#shard"), String(await shardOf(name)));
    console.log(`ok: ${name} is on shard ${await shardOf(name)}, and the page says so`);
  }

  await say(tabs[left], "Is anyone on the other shard?");
  await sees(tabs[right], left, "Is anyone on the other shard?");
  await say(tabs[right], "Yes: <b>me</b> & you ✓");
  await sees(tabs[left], right, "Yes: <b>me</b> & you ✓");
  for (const [at, name] of Object.entries({ 3: left, 4: right })) await say(tabs[name], `message ${at}`);
  for (const tab of Object.values(tabs)) {
    await sees(tab, left, "message 3");
    await sees(tab, right, "message 4");
  }
  console.log("ok: both tabs see what both say, and markup stays text");

  await tabs[left].screenshot({ path: screenshot });
  console.log(`ok: screenshot in ${screenshot}`);

  process.kill(Number(gateway), "SIGTERM");
  for (const tab of Object.values(tabs)) await waitForText(tab.locator("#notice"), "1012");
  console.log("ok: both tabs say that the gateway went away (1012)");
} finally {
  await browser.close();
}

async function namesOnDifferentShards() {
  const left = "alice";
  for (const right of ["bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan"]) {
    if ((await shardOf(left)) !== (await shardOf(right))) return [left, right];
  }
  throw new Error("no two names on different shards");
}

async function shardOf(user) {
  return Number((BigInt(`0x${await xxhash3(user)}`) * BigInt(SHARDS)) >> 64n);
}

async function joinByHand(context, name) {
  const page = await open(context, address);
  await page.locator("#name").fill(name);
  const room = page.locator("#room");
  if ((await room.evaluate((element) => element.tagName)) === "SELECT") await room.selectOption("lobby");
  else await room.fill("lobby");
  await page.locator("#join").click();
  return page;
}

async function joinByUrl(context, name) {
  return open(context, `${address}?name=${name}&room=lobby`);
}

/** Opens a page; an error in its scripts fails the test. */
async function open(context, url) {
  const page = await context.newPage();
  page.on("pageerror", (error) => {
    console.error(`the page failed: ${error}`);
    process.exitCode = 1;
  });
  const response = await page.goto(url);
  assert.equal(response.status(), 200);
  return page;
}

async function say(page, text) {
  await page.locator("#message").fill(text);
  await page.locator("#send").click();
}

async function sees(page, sender, text) {
  await page.locator("#messages .message").filter({ hasText: sender }).filter({ hasText: text }).first().waitFor();
}

async function waitForText(locator, text) {
  await locator.filter({ hasText: text }).waitFor();
}
