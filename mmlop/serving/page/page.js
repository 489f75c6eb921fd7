const TOP = 5; // labels shown of each picture
const [form, adapter, names, file, drop, classes, state, pictures] =
  ["form", "adapter", "names", "file", "drop", "classes", "status", "pictures"].map(id => document.getElementById(id));
const asked = { name: "", pictures: [] }; // the adapter and the pictures that answers are wanted of
let running = new AbortController(); // of the requests under way: who asks anew calls them off, so none can answer late
let drawn = ""; // what the page says about the adapter
const digits = { minimumFractionDigits: 1, maximumFractionDigits: 1, roundingMode: "halfEven" }; // as the card rounds
const decimal = new Intl.NumberFormat("en", digits);

// An answer of the service. Where there is none, the error says why in one sentence, and `field` is "service" if that is to
// blame rather than what it was asked.
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw failure("The service does not answer: see whether it is still running, then press Score.", true);
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body) return body;
  const silent = `The service answered ${answer.status} and did not say why.`;
  throw failure(typeof body?.detail === "string" ? body.detail : silent, answer.ok || answer.status === 429 || answer.status >= 500);
}

const failure = (sentence, ofService) => Object.assign(new Error(sentence), ofService && { field: "service" });

const complain = (field, sentence) => {
  document.getElementById(`${field}-error`).textContent = sentence;
  document.getElementById(field)?.setAttribute("aria-invalid", sentence !== "");
};

// Ask about the adapter and then about every picture, whatever was asked before.
async function refresh() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  for (const field of ["adapter", "file", "classes", "service"]) complain(field, "");
  if (!asked.name) return;
  try {
    const path = asked.name.split("/").map(encodeURIComponent).join("/");
    const about = await ask(`adapters/${path}`, { signal });
    if (signal.aborted) return;
    describe(about);
    await scoreAll(about, signal);
  } catch (error) {
    if (signal.aborted) return;
    forget();
    complain(error.field ?? "adapter", error.message);
  }
}

async function scoreAll(about, signal) {
  const count = asked.pictures.length;
  if (!count) return;
  const many = count === 1 ? "1 picture" : `${count} pictures`;
  const candidates = about.open_vocabulary ? classes.value.split(/[\n,]/).map(name => name.trim()).filter(Boolean) : [];
  const query = new URLSearchParams([["adapter", asked.name], ["top", TOP], ...candidates.map(name => ["classes", name])]);
  state.textContent = `Scoring ${many}…`;
  const start = performance.now();
  const outcomes = await Promise.all(asked.pictures.map(one => score(one, query, candidates, signal)));
  if (signal.aborted) return;
  const answers = outcomes.filter(Boolean);
  const by = answers[0]?.version ? `, version ${answers[0].version}` : "";
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  state.textContent = answers.length ? `Scored by ${asked.name}${by}, in ${seconds} s.` : "Not scored.";
}

// Ask about one picture and show the answer beside it; the answer, or nothing where there is none.
async function score({ file, figure }, query, candidates, signal) {
  figure.ariaBusy = "true";
  try {
    const answer = await ask(`predict?${query}`, { method: "POST", body: file, signal });
    if (!signal.aborted) show(figure, answer.predictions[0].labels);
    return answer;
  } catch (error) {
    if (signal.aborted) return;
    const field = error.field ?? (candidates.length && /\bclass/.test(error.message) && "classes");
    show(figure, [], field ? "" : error.message);
    if (field) complain(field, error.message);
  }
}

function show(figure, labels, sentence = "") {
  figure.ariaBusy = "false";
  figure.querySelector(".error").textContent = sentence;
  figure.querySelector("ol").replaceChildren(...labels.map(({ label, score }) => {
    const item = copy("label");
    item.querySelector(".name").textContent = label;
    item.querySelector(".share").textContent = score > 0 && score < 0.0005 ? "< 0.1 %" : `${decimal.format(100 * score)} %`;
    item.querySelector(".bar span").style.width = `${100 * score}%`;
    return item;
  }));
}

const copy = id => document.getElementById(`${id}-template`).content.firstElementChild.cloneNode(true);

// The pictures that were chosen, dropped or pasted take the place of the earlier ones.
function take(files) {
  for (const { address } of asked.pictures) URL.revokeObjectURL(address);
  asked.pictures = [...files].map(file => {
    const figure = copy("picture"), preview = figure.querySelector("img"), address = URL.createObjectURL(file);
    figure.querySelector("figcaption").textContent = file.name;
    preview.addEventListener("error", () => preview.remove()); // a kind of picture that the browser cannot show
    preview.src = address;
    return { file, figure, address };
  });
  pictures.replaceChildren(...asked.pictures.map(one => one.figure));
  refresh().then(() => pictures.firstElementChild?.scrollIntoView({ block: "nearest" })); // it may be out of sight
}

function choose(name) {
  if (!name || name === asked.name) return;
  asked.name = adapter.value = adapter.placeholder = name;
  const here = new URL(location);
  here.searchParams.set("adapter", name);
  history.replaceState(null, "", here);
  refresh();
}

// Nothing is known of the adapter, so nothing said of it may stay.
function forget() {
  drawn = "";
  document.querySelector("aside").hidden = true;
  for (const { figure } of asked.pictures) show(figure, []);
  state.textContent = asked.pictures.length ? "Not scored." : "No picture yet.";
}

function describe(about) {
  const text = JSON.stringify(about);
  if (text === drawn) return; // what was unfolded stays so
  drawn = text;
  document.querySelector("aside").hidden = false;
  document.getElementById("facts").replaceChildren(...facts(about).flatMap(([term, words, title]) => {
    const [left, right] = [document.createElement("dt"), document.createElement("dd")];
    [left.textContent, right.textContent, right.title] = [term, words, title ?? ""];
    return [left, right];
  }));
  document.getElementById("note").textContent = explained(about);
  document.querySelector("#own summary").textContent = `Its ${about.classes.length.toLocaleString("en")} classes`;
  document.querySelector("#own ul").replaceChildren(...about.classes.map(name => {
    const item = document.createElement("li");
    item.textContent = name;
    return item;
  }));
  const card = new DOMParser().parseFromString(about.card ?? "", "text/html");
  document.querySelector("#card div").replaceChildren(...[...card.body.childNodes].flatMap(harmless));
  document.getElementById("card").hidden = !about.card;
  classes.disabled = !about.open_vocabulary;
  document.getElementById("classes-hint").textContent = about.open_vocabulary
    ? "One a line, or with commas between. Without any, the adapter's own classes are scored."
    : "This adapter knows no other classes than its own.";
}

// Terms, what is said of each, and where that is shortened the whole of it.
function facts({ dataset, metrics = {}, origin = {}, backbone = {}, ...about }) {
  const short = (term, hash) => [term, hash?.slice(0, 12), hash];
  return [
    ["Data set", dataset],
    ["Accuracy", measured(about, metrics, "accuracy") || measured(about, metrics, "accuracy_estimate")],
    ["Base classes", reported(about, "base")],
    ["Novel classes", reported(about, "novel")],
    ["Harmonic mean", reported(about, "hm")],
    ["Method", about.method],
    ["Backbone", [backbone.name, backbone.weights].filter(Boolean).join(", ")],
    ["Trained numbers", about.trainable?.toLocaleString("en")],
    ["Size", about.bytes && size(about.bytes)],
    ["Version", about.version?.toString()],
    ["Seed", origin.seed?.toString()],
    ["Pictures per class", origin.shots?.toString()],
    short("Data", origin.data_hash),
    short("Split", origin.split_hash),
    short("Identity", about.identity),
  ].filter(([, words]) => words);
}

function measured({ intervals = {} }, metrics, name) {
  if (!(name in metrics)) return "";
  const [low, high] = intervals[name] ?? [];
  const interval = low === undefined ? "" : ` (${decimal.format(low)} to ${decimal.format(high)})`;
  return `${decimal.format(metrics[name])} %${interval}`;
}

function reported({ report }, name) {
  if (!report?.[name]) return "";
  const { mean, std, seeds } = report[name];
  return `${decimal.format(mean)}${seeds > 1 ? ` ± ${decimal.format(std)}` : ""} %`;
}

// How the numbers of halves of the classes were measured.
function explained({ report }) {
  const seeds = Object.values(report ?? {})[0]?.seeds;
  if (!seeds) return "";
  const over = seeds > 1 ? `: mean and standard deviation over ${seeds} seeds` : "";
  return `Base, novel and harmonic mean are of adapters that were trained in the same way on half of the classes${over}.`;
}

const size = bytes => bytes < 1e6 ? `${decimal.format(bytes / 1e3)} kB` : `${decimal.format(bytes / 1e6)} MB`;

// Of the card's HTML its text and plain elements without attributes, headings below the page's own.
const PLAIN = new Set("P UL OL LI DL DT DD TABLE CAPTION THEAD TBODY TR TH TD PRE CODE EM STRONG B I BR HR".split(" "));
function harmless(node) {
  if (node.nodeType === Node.TEXT_NODE) return [node.textContent];
  if (!(node instanceof HTMLElement) || ["SCRIPT", "STYLE", "TEMPLATE"].includes(node.tagName)) return [];
  const inside = [...node.childNodes].flatMap(harmless);
  const name = /^H[1-6]$/.test(node.tagName) ? `h${Math.min(6, Number(node.tagName[1]) + 2)}` : node.tagName;
  if (!PLAIN.has(name) && !name.startsWith("h")) return inside;
  const plain = document.createElement(name);
  plain.append(...inside);
  return [plain];
}

// A list to choose from shows only what fits the text in its field: all of it, if that is empty while one chooses.
adapter.addEventListener("focus", () => { adapter.value = ""; });
adapter.addEventListener("blur", () => { adapter.value = asked.name; });
adapter.addEventListener("change", () => choose(adapter.value.trim()));
classes.addEventListener("change", refresh);
form.addEventListener("submit", event => {
  event.preventDefault();
  choose(adapter.value.trim());
  if (asked.name) refresh();
  else start();
});
file.addEventListener("change", () => {
  if (file.files.length) take(file.files);
  file.value = ""; // the same file may be chosen again
});
document.addEventListener("paste", event => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
document.addEventListener("dragover", event => {
  event.preventDefault();
  drop.classList.add("over");
});
for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => drop.classList.remove("over"));
document.addEventListener("drop", event => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else complain("file", "That was no file: drop a picture from your own disk.");
});

async function start() {
  forget();
  choose(new URLSearchParams(location.search).get("adapter"));
  try {
    const { adapters } = await ask("adapters");
    names.replaceChildren(...adapters.map(name => new Option("", name)));
    if (!asked.name) choose(adapters[0]);
    if (!asked.name) complain("adapter", "The service has no adapter yet.");
  } catch (error) {
    complain(error.field ?? "adapter", error.message);
  }
}
start();
