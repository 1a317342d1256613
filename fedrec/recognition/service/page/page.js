// The page: sends one photo, and shows what the service says of it. Whatever comes from the service is set as
// text, never as markup.
import {
  askProven, at, firstLanguage, make, onLanguage, onToken, percent as shownPercent, picture, showTexts,
} from "/base.js";
import { TEXTS } from "/texts.js";

// As many products as a look brings, as many more as each press brings, and the most that a search brings.
const FIRST = 12, STEP = 24, MOST = 100;
// Without these nothing is known of the photo, and it can be sent again as it is.
const PASSING = ["unreachable", "busy", "too-slow", "failed"];

const state = {
  language: "en", facts: null, look: null, file: null, shown: null, seconds: 0, failed: null, asked: 0, working: false,
  explaining: null, wanted: FIRST,
};

const texts = () => TEXTS[state.language];

const ask = askProven(() => texts().errors, { needed: false });
const percent = (share) => shownPercent(state.language, share);

async function askOfPhoto(path) {
  const headers = { "Content-Type": state.file.type || "application/octet-stream" };
  return (await ask(path, { method: "POST", body: state.file, headers })).json();
}

function stored(item) {
  const missing = make("span", { className: "blank", textContent: texts().noPicture });
  if (!item.has_picture) return missing;
  // The title stands beside it.
  const image = make("img", { alt: "" });
  picture(`/photos/${item.photo}`, image, ask, missing);
  return image;
}

// A title may be in any script, beside texts in another one.
function titled(item, text) {
  const shown = { className: "title", dir: "auto", title: text, textContent: text };
  if (!item.link || !/^https?:/.test(item.link)) return make("span", shown);
  return make("a", { href: item.link, rel: "noopener noreferrer nofollow", target: "_blank", ...shown });
}

function showClasses(look) {
  const focused = at("classes").contains(document.activeElement);
  at("classes").replaceChildren(...(look?.classes?.classes ?? []).map((each) => {
    const button = make("button", { type: "button" },
      make("progress", { max: 1, value: each.probability, ariaHidden: "true" }),
      make("span", { textContent: each.name, dir: "auto" }),
      make("span", { textContent: percent(each.probability) }));
    button.setAttribute("aria-pressed", String(each.name === look.evidence?.name));
    button.addEventListener("click", () => explain(each.name));
    return make("li", {}, button);
  }));
  if (focused) at("classes").querySelector("[aria-pressed=true]")?.focus();
  at("class-title").textContent = look?.classes ? texts().classTitle : texts().yourPhoto;
  at("uncalibrated").hidden = !look?.classes || look.classes.calibrated;
  at("no-classes").hidden = !look || Boolean(look.classes);
  at("why-label").hidden = at("why-legend").hidden = !look?.evidence;
  if (look?.evidence) at("why-text").textContent = texts().why(look.evidence.name);
  showPhoto();
}

function showPhoto() {
  const map = at("why").checked && state.look?.evidence;
  at("photo").src = map ? state.look.evidence.picture : state.shown;
  at("photo").alt = map ? texts().whyPicture(state.look.evidence.name) : texts().yourPhoto;
}

function productItem(each) {
  const lines = [titled(each, each.title)];
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  const price = new Intl.NumberFormat(state.language, digits);
  if (each.price !== null) lines.push(make("span", { className: "price", textContent: price.format(each.price) }));
  if (each.merchant) lines.push(make("span", { className: "quiet", textContent: texts().of(each.merchant) }));
  lines.push(make("span", { className: "quiet", textContent: texts().score(each.score.toFixed(2)) }));
  return make("li", { tabIndex: -1 }, stored(each), make("div", {}, ...lines));
}

// The first `before` products stand there already.
function showSimilar(similar, before = 0) {
  at("similar-part").hidden = !similar;
  if (!similar) return;
  at("no-similar").hidden = similar.products.length > 0;
  at("more").hidden = similar.products.length < state.wanted || state.wanted >= MOST;
  if (!before) at("similar").replaceChildren();
  at("similar").append(...similar.products.slice(before).map(productItem));
}

function showSeller(quality, copies) {
  const flaws = quality?.flaws ?? [];
  at("good").textContent = quality?.good ? texts().good : texts().mend;
  at("good").classList.toggle("bad", !quality?.good);
  at("flaws").replaceChildren(...flaws.map((each) => {
    const [problem, advice] = texts().flaws[each.flaw] ?? [each.problem, each.advice];
    const text = `${each.hint ? `${texts().perhaps} ` : ""}${problem} ${advice}`;
    return make("li", {}, make("span", { textContent: text }));
  }));
  at("copies-part").hidden = !copies;
  at("no-copies").hidden = !copies || copies.copies.length > 0;
  at("copies").replaceChildren(...(copies?.copies ?? []).map((each) => make("li", {},
    stored(each),
    make("span", {},
      titled(each, texts().copyOf(each.title)),
      make("span", { className: "quiet", textContent: ` (${texts().tests[each.test] ?? each.test}, ${each.score.toFixed(2)})` })))));
}

function told() {
  if (state.working) return texts().working;
  if (state.failed) return texts().errors[state.failed] ?? "";
  return state.look ? texts().done(state.seconds.toFixed(1)) : "";
}

function showStatus() {
  at("status").classList.toggle("bad", Boolean(state.failed) && !state.working);
  at("status").classList.toggle("working", state.working);
  at("status").textContent = told();
  at("again").hidden = state.working || Boolean(state.look) || !PASSING.includes(state.failed);
}

function show() {
  showTexts(state.language, texts());
  if (state.facts) at("model").textContent = texts().facts(state.facts);
  showStatus();
  // The photo stands in its place at once, so that the answer moves nothing.
  at("seen").hidden = !state.look && !state.working;
  at("result").hidden = !state.look;
  if (!at("seen").hidden) showClasses(state.look);
  if (!state.look) return;
  showSimilar(state.look.similar);
  showSeller(state.look.quality, state.look.copies);
}

async function send(file) {
  if (!file) return;
  if (state.shown) URL.revokeObjectURL(state.shown);
  Object.assign(state, { file, shown: URL.createObjectURL(file), look: null, failed: null, working: true, wanted: FIRST });
  at("why").checked = false;
  show();
  const begun = performance.now();
  const mine = (state.asked += 1);
  let look = null, failed = null;
  try {
    look = await askOfPhoto("/look");
  } catch (error) {
    failed = error.message;
  }
  // A later photo's answer must not be replaced by this one's.
  if (mine !== state.asked) return;
  Object.assign(state, { look, failed, working: false, seconds: (performance.now() - begun) / 1000 });
  show();
}

// Ask something further of the photo, and show the answer unless another photo was chosen meanwhile.
async function further(path, take) {
  const { look } = state;
  Object.assign(state, { failed: null, working: true });
  showStatus();
  let failed = null, answer = null;
  try {
    answer = await askOfPhoto(path);
  } catch (error) {
    failed = error.message;
  }
  if (look !== state.look) return;
  Object.assign(state, { failed, working: false });
  if (answer) take(look, answer);
  showStatus();
}

async function explain(name) {
  state.explaining = name;
  await further(`/evidence?name=${encodeURIComponent(name)}`, (look, evidence) => {
    if (name !== state.explaining) return;
    look.evidence = evidence;
    at("why").checked = true;
    showClasses(look);
  });
}

async function more() {
  if (state.working) return;
  const wanted = Math.min(MOST, state.wanted + STEP);
  await further(`/search?top=${wanted}`, (look, similar) => {
    const before = at("similar").children.length;
    look.similar = similar;
    state.wanted = wanted;
    showSimilar(similar, before);
    // The button may be gone with the last products.
    const next = at("similar").children[before];
    (next?.querySelector("a") ?? next)?.focus();
  });
}

async function start() {
  try {
    state.facts = await (await ask("/model")).json();
    at("ask-token").hidden = true;
    state.failed = null;
  } catch (error) {
    state.failed = error.message === "token" ? null : error.message;
  }
  show();
  // A photo that was chosen before the service was there, or before its token was known.
  if (state.facts && state.file && !state.look && !state.working) send(state.file);
}

for (const input of [at("file"), at("camera")]) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    // Otherwise the same file can't be chosen again, as after "Try again".
    input.value = "";
    send(file);
  });
}
at("why").addEventListener("change", showPhoto);
at("more").addEventListener("click", more);
at("again").addEventListener("click", () => state.facts ? send(state.file) : start());
onLanguage(state, show);
onToken(start);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") send(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => send(event.clipboardData.files[0]));

state.language = firstLanguage();
start();
