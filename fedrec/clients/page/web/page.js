// The merchant's page: shows what its program says of itself, and sends what the merchant decides. Whatever
// comes from the program is set as text, never as markup.
import {
  askProven, at, firstLanguage, make, onLanguage, onToken, percent, picture, showTexts, takeToken,
} from "/base.js";
import { TEXTS } from "/texts.js";

const EVERY = 3000, PHOTOS_EVERY = 15000;
const state = {
  language: "en", status: null, photos: null, chosen: null, shown: {}, failed: null, told: null, trying: null,
  tried: null, timer: null, photosAt: 0, forgetting: null,
};

const texts = () => TEXTS[state.language];

// Each start of the program makes a new token, which its link brings.
const ask = askProven(() => texts().errors, { needed: true });
const act = (path, body = {}) => ask(path, {
  method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
});
const text = (tag, content, properties = {}) => make(tag, { textContent: content, ...properties });
const items = (lines) => lines.filter(Boolean).map((line) => typeof line === "string" ? text("li", line) : line);

const number = (value) => new Intl.NumberFormat(state.language).format(value);
const epsilon = (value) => value === null ? "∞" : (Math.ceil(value * 100 - 1e-7) / 100).toFixed(2);
const rest = (value) => (Math.floor(value * 100 + 1e-7) / 100).toFixed(2);

// A delta is rounded up to two digits, as everywhere else.
function powerOfTen(value) {
  if (!value) return "0";
  let [digits, exponent] = value.toExponential().split("e").map(Number);
  digits = Math.ceil(digits * 10 - 1e-7);
  if (digits === 100) [digits, exponent] = [10, exponent + 1];
  const raised = String(exponent).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
  return `${(digits / 10).toFixed(1)} × 10${raised}`;
}

function time(at) {
  const options = { dateStyle: "medium", timeStyle: "short" };
  return at ? new Intl.DateTimeFormat(state.language, options).format(new Date(at)) : "";
}

function days(first, last) {
  return new Intl.DateTimeFormat(state.language, { dateStyle: "medium" }).formatRange(new Date(first), new Date(last));
}

function size(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  const options = { style: "unit", unit: units[unit], unitDisplay: "short", maximumFractionDigits: bytes < 100 && unit ? 1 : 0 };
  return new Intl.NumberFormat(state.language, options).format(bytes);
}

function duration(seconds) {
  const [value, unit] = seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : seconds < 172800 ? [seconds / 3600, "hour"] : [seconds / 86400, "day"];
  return new Intl.NumberFormat(state.language, { style: "unit", unit, unitDisplay: "long", maximumFractionDigits: 0 }).format(value);
}

function factor(exponent) {
  if (exponent < Math.log(10)) return (Math.ceil(Math.exp(exponent) * 100) / 100).toFixed(2);
  return number(Math.ceil(Math.exp(exponent)));
}

// Build a part again only when what it shows has changed, so that focus and open details stay.
function part(name, shown, build) {
  const key = JSON.stringify([state.language, shown]);
  if (state.shown[name] === key) return;
  state.shown[name] = key;
  build();
}

function showNow(status) {
  const told = texts();
  const starting = status.running && !status.connected && ["loading", "photos", "features"].includes(status.doing?.doing);
  const kind = !status.running ? (status.paused ? "stoppedPaused" : "stopped") : status.paused ? "pausedState" : starting ? "starting" : status.connected ? "running" : "lonely";
  at("state").textContent = told[kind];
  at("lamp").className = { running: "good", stopped: "bad", stoppedPaused: "bad", lonely: "warn", pausedState: "warn", starting: "warn" }[kind];
  const lonely = status.running && !status.connected && status.connection_reason;
  const next = status.next_round;
  const pace = next?.seconds_between ? told.apart(duration(next.seconds_between)) : "";
  at("facts").replaceChildren(...items([
    status.running && status.started && told.since(time(status.started)),
    !status.running && status.connection_at && told.since(time(status.connection_at)),
    !status.running && status.server !== null && told.stoppedHelp,
    status.server === null ? told.noServer : status.connected && told.connectedTo(status.server, time(status.connection_at)),
    lonely && told.connectionFaults[status.connection_fault],
    lonely && text("li", lonely, { lang: "en", className: "quiet" }),
    status.server !== null && (next ? told.next(next.number, next.rounds) + pace : status.training ? told.noNext : told.noTraining),
    status.resumed && told.resumed(time(status.resumed)),
    status.hours && told.hours(status.hours.join(", "), status.clock === "utc"),
    status.new_key_waits && told.newKey,
    ...(status.training?.alarms ?? []).map((alarm) => text("li", `${told.notPrivate}: ${alarm}`, { lang: "en" })),
    status.policy_problem && told.policyProblem,
    status.policy_problem && text("li", status.policy_problem, { lang: "en" }),
  ]));
  at("pause").textContent = status.paused ? told.resume : told.pause;
  at("pause-note").textContent = status.paused ? told.resumeNote : told.pauseNote;
}

function showDoing(status) {
  const doing = status.running ? status.doing : null;
  at("doing").hidden = !doing || ["waiting", "answering"].includes(doing.doing);
  if (at("doing").hidden) return;
  const steps = doing.total ? ` (${texts().steps(number(doing.done), number(doing.total))})` : "";
  at("doing-text").textContent = texts().doing[doing.doing] + steps;
  const bar = at("doing-bar");
  if (doing.total) Object.assign(bar, { max: doing.total, value: doing.done });
  else bar.removeAttribute("value");
}

function explained(refusal) {
  const told = texts();
  if (refusal.cause === "pause") return [text("h3", told.refusedPaused)];
  if (refusal.cause === "unusable_policy") return [text("h3", told.refusedPolicy)];
  if (Object.hasOwn(told.rules, refusal.rule)) {
    const detail = refusal.reason.slice(refusal.reason.indexOf(": ") + 2);
    return [text("h3", told.rules[refusal.rule]), text("p", `${told.ruleName(refusal.rule)}: ${detail}`, { className: "quiet" })];
  }
  return [text("h3", told.refusedOther), text("p", refusal.reason, { lang: "en" })];
}

function showRefusals(refusals) {
  const [standing, earlier] = [true, false].map((which) => refusals.filter((each) => each.standing === which));
  at("decisions").hidden = standing.length === 0;
  at("earlier").hidden = earlier.length === 0;
  at("earlier-count").textContent = texts().earlier(number(earlier.length));
  at("refusals").replaceChildren(...standing.map(refusalItem));
  at("earlier-list").replaceChildren(...earlier.map((each) => refusalItem({ ...each, plan: null })));
}

function refusalItem(refusal) {
  const told = texts();
  const parts = explained(refusal);
  const plan = refusal.plan;
  if (plan) {
    parts.push(text("p", told.planOf(plan.model, plan.rounds, plan.merchants)));
    if (plan.site_figures) parts.push(text("p", told.planFigures));
    parts.push(text("p", told.wouldCost(epsilon(plan.epsilon), told.words[plan.word])));
    if (refusal.rule === "lifetime_epsilon" && plan.cap_needed !== null) parts.push(text("p", told.wouldNeed(epsilon(plan.cap_needed))));
  }
  parts.push(text("p", told.refusedAt(time(refusal.at), refusal.times), { className: "quiet" }));
  return make("li", {}, ...parts);
}

function inWords(share) {
  const steps = [0.0001, 0.1, 0.375, 0.625, 0.85, 0.9999];
  return texts().shares[steps.findIndex((step) => share < step) === -1 ? 6 : steps.findIndex((step) => share < step)];
}

const LEAST_LEFT = 0.005; // What is less is shown as 0.00.

function showBudget(budget) {
  const told = texts();
  const spent = epsilon(budget.spent);
  const share = budget.cap === null ? 0 : budget.spent === null ? 1 : Math.min(1, budget.spent / budget.cap);
  const words = told.gauge(inWords(share));
  at("budget-lead").textContent = budget.cap === null ? told.budgetNoCap(spent) : words;
  at("gauge").hidden = at("gauge-ends").hidden = budget.cap === null;
  at("gauge").setAttribute("aria-label", words);
  at("gauge").className = `gauge ${share >= 0.999 ? "full" : share >= 0.8 ? "high" : ""}`;
  // A style set by a script is no inline style to the content security policy.
  at("gauge-fill").style.width = `${100 * share}%`;
  at("gauge-ends").replaceChildren(text("span", told.spentEnd(spent)), text("span", told.left(budget.left === null ? "" : rest(budget.left))));
  const spentUp = budget.cap !== null && budget.left < LEAST_LEFT;
  at("budget-word").replaceChildren(
    spentUp ? text("strong", told.noneLeft) : "",
    text("strong", told.wordSentence(told.words[budget.word])),
    budget.spent === null ? told.noBound : told.sentence(factor(budget.spent)));
  at("budget-facts").replaceChildren(...items([
    budget.cap !== null && told.budgetLead(`epsilon ${spent}`, budget.cap),
    told.delta(powerOfTen(budget.delta)),
    told.broken(epsilon(budget.spent_broken)),
    told.declared(number(budget.declared), told.units[budget.unit] ?? told.units.record),
    told.strict,
    told.never,
  ]));
}

function showSent(history) {
  const sum = (name) => history.reduce((total, each) => total + each[name], 0);
  const told = texts();
  const tiles = [[told.sentBytes, size(sum("bytes_sent"))], [told.sentUploads, number(sum("uploads"))], [told.sentAnswers, number(sum("answers"))]];
  at("sent").replaceChildren(...tiles.map(([name, value]) => make("div", {}, text("dt", name), text("dd", value))));
}

function trainingItem(each, status) {
  const told = texts();
  const accuracy = each.accuracy === null ? "" : percent(state.language, each.accuracy);
  const gave = each.model_fetched ? told.gaveModel(accuracy) : each.open ? told.gaveOpen : each.never_changed ? told.gaveNeverChanged : told.gaveNothing;
  const facts = [
    [told.when, each.first_at ? days(each.first_at, each.last_at) : ""],
    [told.rounds, told.roundsOf(each.charged, each.rounds, each.lost)],
    [told.cost, each.charged ? told.costOf(epsilon(each.epsilon)) : told.nothing],
    [told.bytes, size(each.bytes_sent)],
    [told.gave, gave],
  ];
  const title = make("h3", {}, each.model, text("span", each.open ? told.open : told.ended, { className: "tag" }), text("span", each.training_id.slice(0, 12), { className: "quiet" }));
  const list = make("dl", { className: "numbers" }, ...facts.filter(([, value]) => value).map(([name, value]) => make("div", {}, text("dt", name), text("dd", value))));
  const parts = [title, list];
  if (each.seeded) parts.push(text("p", told.seeded));
  if (each.noise_alone) parts.push(text("p", told.noiseAlone));
  if (!each.open && !status.missing_packages) {
    const button = text("button", each.model_fetched ? told.tryIt : told.fetch, { type: "button" });
    button.disabled = status.fetching.state === "running";
    button.addEventListener("click", () => each.model_fetched ? beginTry(each) : fetchModel(each));
    parts.push(make("div", { className: "buttons" }, button));
  }
  return make("li", {}, ...parts);
}

function showHistory(status) {
  const told = texts();
  at("no-history").hidden = status.history.length > 0;
  at("history").replaceChildren(...status.history.map((each) => trainingItem(each, status)));
  const { state: stage, detail } = status.fetching;
  const lines = { running: told.fetching(detail), done: told.fetched, failed: `${told.fetchFailed} ${detail}` };
  const missing = status.history.some((each) => !each.open) && status.missing_packages;
  at("fetch-status").textContent = missing ? told.missing(status.missing_packages) : lines[stage] ?? "";
}

async function fetchModel(each) {
  await doing(() => act("/models/fetch", { training: each.training_id }));
}

function beginTry(each) {
  state.trying = each;
  at("try").hidden = false;
  at("try-model").textContent = `${each.model}, ${each.training_id.slice(0, 12)}`;
  at("file").focus();
  at("try").scrollIntoView({ block: "nearest" });
}

function showTried() {
  at("classes").replaceChildren(...(state.tried ?? []).map((each) => make("li", {},
    text("span", each.name), text("span", percent(state.language, each.probability)),
    make("progress", { max: 1, value: each.probability, ariaHidden: "true" }))));
}

async function tryPhoto(file) {
  if (!file || !state.trying) return;
  at("tried").src = URL.createObjectURL(file);
  at("tried").alt = file.name;
  at("tried").hidden = false;
  state.tried = null;
  showTried();
  at("try-status").textContent = texts().trying;
  try {
    const headers = { "Content-Type": file.type || "application/octet-stream" };
    const response = await ask(`/models/${state.trying.training_id}/try`, { method: "POST", body: file, headers });
    state.tried = (await response.json()).classes;
    at("try-status").textContent = texts().tried;
  } catch (error) {
    at("try-status").textContent = [texts().errors[error.message], error.message === "refused" ? error.detail : ""].join(" ");
  }
  showTried();
}

function showPhotos() {
  const told = texts(), found = state.photos;
  if (!found) return;
  const counts = found.counts;
  const all = Object.values(counts).reduce((sum, each) => sum + each, 0);
  const lines = [];
  if (found.problem) lines.push(`${told.photosProblem} ${found.problem}`);
  else if (!found.scan) lines.push(told.photosReading);
  else if (state.status?.photo_counts) lines.push(told.photosLead(number(counts.used ?? 0), number(all)));
  else lines.push(told.photosReady(number(counts.ready ?? 0), number(all)));
  const settled = state.status?.photo_counts;
  if (settled?.added) lines.push(told.added(number(settled.added)));
  if (settled?.missing) lines.push(told.gone(number(settled.missing)));
  at("photos-lead").textContent = lines.join(" ");
  const chips = [[null, told.all, all], ...Object.keys(told.states).filter((name) => counts[name]).map((name) => [name, told.states[name], counts[name]])];
  // Before the folder was read there is nothing to choose from.
  at("states").hidden = !found.scan;
  at("states").replaceChildren(...chips.map(([name, label, count]) => {
    const button = text("button", `${label} ${number(count)}`, { type: "button" });
    button.dataset.state = name ?? "";
    button.setAttribute("aria-pressed", String(name === state.chosen));
    button.addEventListener("click", () => choose(name));
    return button;
  }));
  at("photos").replaceChildren(...found.photos.map((each) => photoItem(each, found.scan)));
  at("more").hidden = found.photos.length >= found.total;
  at("photos-status").textContent = !found.scan || found.problem ? "" : !found.total ? told.none : found.reading ? told.photosReading : "";
}

function photoItem(each, scan) {
  const told = texts();
  const blank = make("span", { className: "blank" });
  const image = each.state === "unusable" ? blank : make("img", { alt: each.name, loading: "lazy" });
  if (image !== blank) seen.observe(Object.assign(image, { place: `/photos/${scan}/${each.number}` }));
  const lines = [text("span", each.name, { className: "name" }), text("span", told.states[each.state], { className: "quiet" })];
  if (each.reason) lines.push(text("span", each.reason, { className: "quiet", lang: "en" }));
  if (!["unusable", "forgotten", "copy"].includes(each.state)) {
    const button = text("button", told.forget, { type: "button", ariaLabel: `${told.forget}: ${each.name}` });
    button.addEventListener("click", () => sure(each, scan));
    lines.push(button);
  }
  return make("li", {}, image, make("div", {}, ...lines));
}

// A photo is asked for when it is about to be seen, not before.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    seen.unobserve(entry.target);
    picture(entry.target.place, entry.target, ask);
  }
}, { rootMargin: "200px" });

function sure(each, scan) {
  state.forgetting = { number: each.number, scan, name: each.name };
  at("sure-name").textContent = each.name;
  at("sure").showModal();
}

async function forget() {
  const { number: chosen, scan, name } = state.forgetting;
  at("sure").close();
  if (await doing(() => act("/forget", { number: chosen, scan }))) {
    state.told = () => texts().forgot(name);
    await readPhotos();
    showMessage();
  }
}

async function choose(name) {
  state.chosen = name;
  state.photos = null;
  await readPhotos();
  at("states").querySelector(`[data-state="${name ?? ""}"]`)?.focus();
}

async function readPhotos({ more = false } = {}) {
  const before = more ? state.photos.photos : [];
  const query = new URLSearchParams({ start: String(before.length), ...(state.chosen ? { state: state.chosen } : {}) });
  try {
    const found = await (await ask(`/photos.json?${query}`)).json();
    found.photos = [...before, ...found.photos];
    Object.assign(state, { photos: found, photosAt: Date.now() });
  } catch (error) {
    state.failed = error;
  }
  part("photos", [state.photos, state.chosen, state.status?.photo_counts], showPhotos);
}

async function followPhotos() {
  // A list that was made longer is read again only when the folder was, or when something was forgotten.
  const { photos, chosen } = state;
  if (photos && photos.photos.length > photos.step) return;
  if (photos?.scan && !photos.reading && Date.now() < state.photosAt + PHOTOS_EVERY) return;
  if (at("sure").open || at("photos").contains(document.activeElement)) return;
  await readPhotos();
  if (chosen && !state.photos?.counts[chosen] && !state.photos?.total) await choose(null);
}

function showMessage() {
  const failed = state.failed;
  at("status").classList.toggle("bad", Boolean(failed && failed.message !== "token"));
  if (failed) at("status").textContent = [texts().errors[failed.message] ?? "", failed.message === "refused" ? failed.detail : ""].join(" ");
  else at("status").textContent = state.told ? state.told() : "";
}

// Do something that may fail, and show at once what came of it.
async function doing(action) {
  state.told = () => texts().working;
  state.failed = null;
  showMessage();
  try {
    await action();
  } catch (error) {
    state.failed = error;
  }
  const failed = state.failed;
  state.told = null;
  await poll();
  state.failed = failed ?? state.failed;
  showMessage();
  return !failed;
}

function show() {
  showTexts(state.language, texts());
  showMessage();
  const status = state.status;
  if (!status) return;
  at("content").hidden = false;
  at("merchant").textContent = texts().merchant(status.merchant);
  part("now", [status.running, status.started, status.connected, status.connection_at, status.connection_reason, status.connection_fault, status.server, status.next_round, status.training?.alarms, status.hours, status.paused, status.resumed, status.policy_problem, status.new_key_waits, status.doing?.doing], () => showNow(status));
  part("doing", [status.running, status.doing], () => showDoing(status));
  part("refusals", status.refusals, () => showRefusals(status.refusals));
  part("budget", status.budget, () => showBudget(status.budget));
  part("sent", status.history, () => showSent(status.history));
  part("history", [status.history, status.fetching, status.missing_packages], () => showHistory(status));
  part("photos", [state.photos, state.chosen, status.photo_counts], showPhotos);
  showTried();
}

async function poll() {
  clearTimeout(state.timer);
  // A tab that nobody sees asks for nothing.
  if (document.hidden) return;
  try {
    state.status = await (await ask("/status.json")).json();
    at("ask-token").hidden = true;
    if (state.failed && ["unreachable", "token", "changed"].includes(state.failed.message)) state.failed = null;
    await followPhotos();
  } catch (error) {
    state.failed = error;
  }
  show();
  if (sessionStorage.getItem("token")) state.timer = setTimeout(poll, EVERY);
}

at("pause").addEventListener("click", () => doing(() => act(state.status.paused ? "/resume" : "/pause")));
at("sure-no").addEventListener("click", () => at("sure").close());
at("sure-yes").addEventListener("click", forget);
at("more").addEventListener("click", () => readPhotos({ more: true }));
at("file").addEventListener("change", (event) => tryPhoto(event.target.files[0]));
document.addEventListener("visibilitychange", poll);
onLanguage(state, show);
onToken(poll);
window.addEventListener("hashchange", () => { takeToken(); poll(); });
takeToken();
state.language = firstLanguage();
show();
poll();
