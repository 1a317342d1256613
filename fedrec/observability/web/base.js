// What the pages of the product have in common: elements, languages, and requests that carry the token.
// Whatever comes from a server is set as text, never as markup.

export const at = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A link may bring the token behind its "#", which a browser sends to nobody. It is kept for this tab alone.
export function takeToken() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem("token", found[1]);
  history.replaceState(null, "", location.pathname);
}

function askToken() {
  if (!at("ask-token").hidden) return;
  at("ask-token").hidden = false;
  at("token").focus();
}

// Return whether a server knows this tab's token, without telling it: another program may have taken its port.
async function knowsToken(path) {
  // Browsers have it on HTTPS and on this machine's own addresses: elsewhere everybody could read the token.
  if (!crypto.subtle) throw new Error("insecure");
  const bytes = (text) => new TextEncoder().encode(text);
  const hex = (found) => [...new Uint8Array(found)].map((each) => each.toString(16).padStart(2, "0")).join("");
  const nonce = hex(crypto.getRandomValues(new Uint8Array(32)));
  const kind = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes(sessionStorage.getItem("token")), kind, false, ["sign"]);
  const expected = hex(await crypto.subtle.sign("HMAC", key, bytes(`fedrec page\n${nonce}`)));
  const response = await fetch(`${path}?nonce=${nonce}`, { redirect: "error" }).catch(() => null);
  if (!response || response.status >= 500) throw new Error("unreachable");
  const found = response.ok ? await response.json().catch(() => null) : null;
  return found?.proof === expected;
}

// Ask the server; the error's message is a name of `known`, or "token", "unreachable" or "failed".
async function ask(path, options = {}, known = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("unreachable");
  }
  if (response.status === 401) {
    askToken();
    throw new Error("token");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.error in known ? problem.error : "failed");
    error.detail = problem.detail;
    throw error;
  }
  return response;
}

// Make an `ask` that sends the token only to a server that has just proved that it knows it. A token that the
// server doesn't know is forgotten. Without one, it asks all the same, unless one is `needed`.
const PROVEN = 2000;
export function askProven(known, { needed }) {
  const proof = { token: null, at: 0, running: null, none: "token" };
  async function prove() {
    const token = sessionStorage.getItem("token");
    if (!token || !await knowsToken("/proof")) {
      if (token) proof.none = "changed";
      // A newer token, which a link brought meanwhile, stays.
      if (sessionStorage.getItem("token") === token) sessionStorage.removeItem("token");
      askToken();
      throw new Error(proof.none);
    }
    Object.assign(proof, { token, at: Date.now(), none: "token" });
  }
  return async (path, options = {}) => {
    const token = sessionStorage.getItem("token");
    if (token ? proof.token !== token || Date.now() > proof.at + PROVEN : needed) {
      proof.running ??= prove().finally(() => { proof.running = null; });
      await proof.running;
    }
    try {
      return await ask(path, options, known());
    } catch (error) {
      proof.token = null;
      throw error;
    }
  };
}

// With a token, a picture can't be an image's plain address. What can't be had is shown as `missing`.
export async function picture(path, image, request, missing = make("span", { className: "blank" })) {
  try {
    const response = await request(path);
    const address = URL.createObjectURL(await response.blob());
    image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    image.src = address;
  } catch {
    image.replaceWith(missing);
  }
}

export function onToken(start) {
  at("ask-token").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", at("token").value.trim());
    at("token").value = "";
    start();
  });
}

export function firstLanguage() {
  const preferred = localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  return preferred === "zh" ? "zh" : "en";
}

// Put a language's fixed texts in place, and the other language's name on its button.
export function showTexts(language, texts) {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  document.title = texts.heading;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = texts[element.dataset.text];
  const other = language === "zh" ? "en" : "zh";
  Object.assign(at("language"), { textContent: other === "zh" ? "中文" : "English", lang: other });
}

export function onLanguage(state, show) {
  at("language").addEventListener("click", () => {
    state.language = state.language === "zh" ? "en" : "zh";
    localStorage.setItem("language", state.language);
    show();
  });
}

export function percent(language, share) {
  return new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 }).format(share);
}
