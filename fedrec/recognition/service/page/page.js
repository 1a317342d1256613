// The page: sends one photo, and shows what the service says of it. Whatever comes from the service is set as
// text, never as markup.
import {
  askProven, at, firstLanguage, make, onLanguage, onToken, percent as shownPercent, picture, showTexts,
} from "/base.js";
import { TEXTS } from "/texts.js";

const state = { language: "en", facts: null, look: null, file: null, shown: null, seconds: 0, failed: null, asked: 0 };

const texts = () => TEXTS[state.language];

const ask = askProven(() => texts().errors, { needed: false });
const percent = (share) => shownPercent(state.language, share);

function stored(item, title) {
  const image = make("img", { alt: title, loading: "lazy" });
  if (!item.has_picture) return make("span", { className: "blank" });
  picture(`/photos/${item.photo}`, image, ask);
  return image;
}

function titled(item, text) {
  if (!item.link || !/^https?:/.test(item.link)) return make("span", { textContent: text });
  return make("a", { href: item.link, rel: "noopener noreferrer nofollow", target: "_blank", textContent: text });
}

function showClasses(look) {
  const chosen = look.evidence?.name;
  at("classes").replaceChildren(...(look.classes?.classes ?? []).map((each) => {
    const button = make("button", { type: "button" },
      make("progress", { max: 1, value: each.probability, ariaHidden: "true" }),
      make("span", { textContent: each.name }),
      make("span", { textContent: percent(each.probability) }));
    button.setAttribute("aria-pressed", String(each.name === chosen));
    button.addEventListener("click", () => send(state.file, each.name));
    return make("li", {}, button);
  }));
  at("uncalibrated").hidden = !look.classes || look.classes.calibrated;
  at("no-classes").hidden = Boolean(look.classes);
  at("why-label").hidden = at("why-legend").hidden = !look.evidence;
  if (look.evidence) at("why-text").textContent = texts().why(look.evidence.name);
  showPhoto();
}

function showPhoto() {
  const map = at("why").checked && state.look?.evidence;
  at("photo").src = map ? state.look.evidence.picture : state.shown;
  at("photo").alt = map ? texts().why(state.look.evidence.name) : texts().ask;
}

function showSimilar(similar) {
  at("similar-part").hidden = !similar;
  if (!similar) return;
  at("no-similar").hidden = similar.products.length > 0;
  at("similar").replaceChildren(...similar.products.map((each) => {
    const lines = [titled(each, each.title)];
    if (each.price !== null) {
      const price = new Intl.NumberFormat(state.language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
      lines.push(make("span", { className: "price", textContent: price.format(each.price) }));
    }
    if (each.merchant) lines.push(make("span", { className: "quiet", textContent: texts().of(each.merchant) }));
    lines.push(make("span", { className: "quiet", textContent: texts().score(each.score.toFixed(2)) }));
    return make("li", {}, stored(each, each.title), make("div", {}, ...lines));
  }));
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
    stored(each, each.title),
    make("span", {},
      titled(each, texts().copyOf(each.title)),
      make("span", { className: "quiet", textContent: ` (${texts().tests[each.test] ?? each.test}, ${each.score.toFixed(2)})` })))));
}

function show() {
  showTexts(state.language, texts());
  if (state.facts) at("model").textContent = texts().facts(state.facts);
  at("status").classList.toggle("bad", Boolean(state.failed));
  at("status").textContent = state.failed ? texts().errors[state.failed] ?? "" : "";
  at("result").hidden = !state.look;
  if (!state.look) return;
  if (!state.failed) at("status").textContent = texts().done(state.seconds.toFixed(1));
  showClasses(state.look);
  showSimilar(state.look.similar);
  showSeller(state.look.quality, state.look.copies);
}

async function send(file, name) {
  if (!file) return;
  if (file !== state.file) {
    if (state.shown) URL.revokeObjectURL(state.shown);
    Object.assign(state, { file, shown: URL.createObjectURL(file), look: null });
    at("why").checked = false;
  } else {
    at("why").checked = true;
  }
  state.failed = null;
  show();
  at("status").textContent = texts().working;
  const begun = performance.now();
  const mine = (state.asked += 1);
  try {
    const query = name ? `?name=${encodeURIComponent(name)}` : "";
    const headers = { "Content-Type": file.type || "application/octet-stream" };
    const response = await ask(`/look${query}`, { method: "POST", body: file, headers });
    const look = await response.json();
    // A later photo's answer must not be replaced by this one's.
    if (mine !== state.asked) return;
    state.look = look;
    state.seconds = (performance.now() - begun) / 1000;
  } catch (error) {
    if (mine !== state.asked) return;
    state.failed = error.message;
  }
  show();
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
