// Drives timeline pages in a headless browser, as a person would, and says what does not work.
// usage: node timeline-check.mjs BROWSER SCREENSHOT_DIR PAGE...   (scripts/timeline-check calls it)
//
// The browser is spoken to in its debugging protocol over a pipe, so nothing needs to be installed beside it.
import { spawn } from "node:child_process";
import { writeFileSync, mkdirSync } from "node:fs";
import { basename, resolve } from "node:path";

const [browserPath, shots, ...pages] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
  "--window-size=1400,1000", "about:blank"];
const browser = spawn(browserPath, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const give = browser.stdio[3], take = browser.stdio[4];
let pending = new Map(), next = 1, buffer = "", onEvent = () => {};
take.on("data", piece => {
  buffer += piece;
  for (let end; (end = buffer.indexOf("\0")) >= 0; buffer = buffer.slice(end + 1)) {
    const message = JSON.parse(buffer.slice(0, end));
    if (!message.id) { onEvent(message); continue; }
    const { yes, no } = pending.get(message.id);
    pending.delete(message.id);
    message.error ? no(new Error(message.error.message)) : yes(message.result);
  }
});
browser.on("exit", code => {
  for (const { no } of pending.values()) no(new Error(`the browser ended (${code})`));
});
const send = (method, params = {}, sessionId) => new Promise((yes, no) => {
  pending.set(next, { yes, no });
  give.write(JSON.stringify({ id: next++, method, params, sessionId }) + "\0");
});

let broken = 0;
async function check(page) {
  const wrong = [];
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const ask = (method, params) => send(method, params, sessionId);
  let loaded;
  onEvent = ({ method, params, sessionId: from }) => {
    if (from !== sessionId) return;
    if (method === "Page.loadEventFired") loaded?.();
    if (method === "Runtime.exceptionThrown") {
      const { exception, text } = params.exceptionDetails;
      wrong.push(`uncaught: ${exception?.description ?? text}`);
    }
    if (method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(params.type)) {
      wrong.push(`console: ${params.args.map(a => a.value ?? a.description).join(" ")}`);
    }
    if (method === "Log.entryAdded") wrong.push(`log: ${params.entry.text} ${params.entry.url ?? ""}`);
  };
  for (const domain of ["Page", "Runtime", "Log"]) await ask(`${domain}.enable`);
  await ask("Emulation.setDeviceMetricsOverride",
    { width: 1400, height: 1000, deviceScaleFactor: 1, mobile: false });
  const open = async url => {
    const done = new Promise(yes => { loaded = yes; });
    await ask("Page.navigate", { url });
    await done;
  };
  const value = async expression => {
    const answer = await ask("Runtime.evaluate", { expression, returnByValue: true });
    if (answer.exceptionDetails) throw new Error(`${expression}: ${answer.exceptionDetails.text}`);
    return answer.result.value;
  };
  const must = (holds, what) => { if (!holds) wrong.push(what); };
  const shot = async name => {
    const { data } = await ask("Page.captureScreenshot", { format: "png" });
    writeFileSync(resolve(shots, `${basename(page, ".html")}-${name}.png`), Buffer.from(data, "base64"));
  };
  const mouse = (type, x, y, more = {}) => ask("Input.dispatchMouseEvent", { type, x, y, ...more });
  const press = { button: "left", buttons: 1, clickCount: 1 };
  const click = async (x, y) => {
    await mouse("mouseMoved", x, y);
    await mouse("mousePressed", x, y, press);
    await mouse("mouseReleased", x, y, { ...press, buttons: 0 });
  };
  const span = async () => value("[from, to]");
  // The canvas begins below the head; boxes are measured from its corner.
  const box = async which => value(`(() => {
    const r = canvas.getBoundingClientRect(), b = boxes.${which};
    return b && { x: r.left + (b[0] + b[2]) / 2, y: r.top + (b[1] + b[3]) / 2, tip: b[4], name: b[5] };
  })()`);

  const url = "file://" + resolve(page);
  await open(url);
  await shot("whole");
  const failing = await value("data.broken.length > 0");
  must(await value("document.title.length > 0 && $('title').textContent.length > 0"), "no title");
  must(await value("data.members.length > 0 && data.clients.length > 0"), "no lanes");
  must(await value(`(() => {
    const seen = g.getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(Array.from({ length: 4000 }, (_, i) =>
      seen.slice(i * 4 * Math.floor(seen.length / 16000)).slice(0, 3).join())).size > 4;
  })()`), "the canvas is blank");
  must(await value("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window");
  must(await value("$('broken').style.display !== 'none'") === failing, "the list of what broke is shown wrongly");

  // The wheel zooms where the pointer is; + and − about the middle; «all» shows all again.
  const whole = await span();
  const at = await value("(() => { const r = canvas.getBoundingClientRect(); return [r.left + 700, r.top + 60]; })()");
  const under = await value(`time(700)`);
  await mouse("mouseWheel", ...at, { deltaX: 0, deltaY: -240 });
  const zoomed = await span();
  must(zoomed[1] - zoomed[0] < whole[1] - whole[0], "the wheel does not zoom");
  must(Math.abs(await value("time(700)") - under) < 1e-6 * whole[1], "the wheel moves what is under the pointer");
  // Dragging moves.
  await mouse("mouseMoved", ...at);
  await mouse("mousePressed", ...at, press);
  await mouse("mouseMoved", at[0] - 200, at[1], { buttons: 1, button: "left" });
  await mouse("mouseReleased", at[0] - 200, at[1], { ...press, buttons: 0 });
  const moved = await span();
  must(moved[0] > zoomed[0], "dragging does not move");
  must(Math.abs((moved[1] - moved[0]) - (zoomed[1] - zoomed[0])) < 1e-6, "dragging zooms");
  must(await value("$('tip').dataset.pinned !== '1'"), "dragging counts as a click");
  await value("$('in').click()");
  must((await span())[1] - (await span())[0] < moved[1] - moved[0], "+ does not zoom in");
  await value("for (let i = 0; i < 40; i++) $('in').click()");
  must((await span()).every(Number.isFinite), "zooming in has no end");
  await value("for (let i = 0; i < 60; i++) $('out').click()");
  must((await span()).join() === whole.join(), "− does not come back to the whole");
  await value("view(1, 1.5)");
  await value("$('all').click()");
  must((await span()).join() === whole.join(), "«all» does not show all");

  // An operation shows what it was; a click keeps that, another one lets it go.
  await value("view(0, Math.min(data.end, 2))");
  const operation = await box("findLast(b => b[4] && / at m\\d/.test(b[4]) && b[2] - b[0] > 4)");
  must(operation, "no operation is drawn in the first two seconds");
  if (operation) {
    await mouse("mouseMoved", operation.x, operation.y);
    must(await value("$('tip').style.display === 'block' && $('tip').textContent.length > 10"),
      "an operation does not say what it was");
    await click(operation.x, operation.y);
    await mouse("mouseMoved", 700, 20);
    must(await value("$('tip').style.display === 'block'"), "a click does not keep what an operation says");
    must(await value(`(() => { const r = $('tip').getBoundingClientRect();
      return r.left >= 0 && r.top >= 0 && r.right <= innerWidth && r.bottom <= innerHeight; })()`),
      "what an operation says leaves the window");
    await shot("operation");
    await ask("Input.dispatchKeyEvent", { type: "keyDown", key: "Escape", code: "Escape" });
    must(await value("$('tip').style.display === 'none'"), "Escape does not let go of what was kept");
  }

  // Messages between members: none until asked for, then those of the part that is shown.
  const arrows = () => value("boxes.filter(b => b[4] && b[4].includes(' → ') && b[4].includes(' bytes')).length");
  must(await arrows() === 0, "messages are shown that nobody asked for");
  if (await value("data.packets.length > 0")) {
    await value("$('showpackets').click()");
    await value("(() => { const p = data.packets[Math.floor(data.packets.length / 2)]; view(p[0] - 0.05, p[1] + 0.05); })()");
    must(await arrows() > 0, "messages cannot be shown");
    await shot("messages");
    await value("$('showpackets').click(); $('all').click()");
    must(await arrows() === 0, "messages cannot be put away");
  }

  // Log lines: on and off, of one member, with some words.
  const rows = () => value("$('log').childElementCount");
  const all = await rows();
  must(all > 0, "no log lines");
  await value("$('showlog').click()");
  must(await rows() === 0, "log lines cannot be put away");
  await value("$('showlog').click()");
  const lane = await box("find(b => b[5] === data.members[0].name)");
  await click(lane.x, lane.y);
  must(await value("$('who').value") === lane.name, "a click on a lane's name does not choose its log");
  const own = await rows();
  must(own > 0 && own < all, "the log of one member is not part of all");
  await value("$('grep').value = 'no such words'; $('grep').dispatchEvent(new Event('input'))");
  must(await rows() === 0, "lines without the words are shown");
  await value("$('grep').value = ''; $('grep').dispatchEvent(new Event('input'))");

  // What broke is marked, and its link leads there.
  if (failing) {
    await value("$('all').click()");
    must(await value("$('broken').querySelectorAll('a').length === data.broken.length"), "a violation has no link");
    await value("$('broken').querySelector('a').click()");
    const [a, b] = await span();
    const t = await value("data.broken[0][0]");
    must(a <= t && t <= b && b - a < 3, "the link of a violation does not lead there");
    must(await value("boxes.some(b => b[4] && b[4].startsWith(data.broken[0][1]))"), "the violation is not marked");
    await shot("broken");
  }
  // A small window, and a part named in the address.
  await ask("Emulation.setDeviceMetricsOverride", { width: 800, height: 600, deviceScaleFactor: 2, mobile: false });
  await value("$('all').click()");
  must(await value("document.documentElement.scrollWidth <= innerWidth"), "a small window must be scrolled sideways");
  must(await value("$('stage').clientHeight >= 150 && $('log').clientHeight >= 60"), "a small window has no room");
  await shot("small");
  await open("about:blank");
  await open(url + "#1.5-2.5");
  must((await span()).join() === "1.5,2.5", "the address does not choose a part");
  await send("Target.closeTarget", { targetId });
  broken += wrong.length > 0;
  console.log(`${page}: ${failing ? "a failing run" : "a clean run"}, ${wrong.length ? "WRONG:" : "works"}`);
  for (const what of wrong) console.log(`  ${what}`);
}

try {
  for (const page of pages) await check(page);
} catch (error) {
  console.log(`the browser does not answer as expected: ${error.message}`);
  broken += 1;
}
browser.kill();
console.log(`${pages.length} pages, ${broken} with something wrong; screenshots in ${shots}`);
process.exit(broken ? 1 : 0);
