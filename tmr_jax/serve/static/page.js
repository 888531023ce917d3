// Keys, copying, and the drawing board. Without this file the page still searches.
"use strict";
document.documentElement.classList.add("has-script");

const search = document.getElementById("search");
const results = document.getElementById("results");

function say(text) {
  const toast = document.querySelector(".toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.hidden = true; }, 2500);
}

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // the clipboard needs https
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(said);
}

// Cards

const cards = () => [...document.querySelectorAll(".card")];
const here = () => document.activeElement?.closest(".card");

function go(step) {
  const all = cards();
  if (!all.length) return;
  const at = all.indexOf(here());
  const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

const doing = {
  copy: (from) => {
    const card = from.closest(".card");
    if (!card) return;
    const { smiles, text } = card.dataset;
    copy(smiles ?? text, smiles ? "SMILES copied" : "Text copied");
  },
  share: (from) => copy(location.origin + from.dataset.address, "Link copied"),
  keys: () => document.getElementById("keys").showModal(),
  close: (from) => shut(from.closest(".explain")),
  enlarge: (from) => {
    const dialog = document.getElementById("large");
    const figure = dialog.querySelector("figure");
    figure.className = from.closest("figure").className;
    figure.replaceChildren(from.querySelector("svg").cloneNode(true));
    dialog.showModal();
  },
  sketch: () => {
    const dialog = document.getElementById("sketch");
    const frame = dialog.querySelector("iframe");
    const smiles = document.getElementById("molecule").value;
    if (!frame.src) {
      frame.src = frame.dataset.src;
      frame.addEventListener("load", () => frame.contentWindow.board.begin(smiles), { once: true });
    } else {
      frame.contentWindow.board.begin(smiles);
    }
    dialog.returnValue = "";
    dialog.showModal();
  },
};

document.addEventListener("click", (event) => {
  if (event.target.matches("dialog")) event.target.close();  // beside its content
  const from = event.target.closest("[data-does]");
  if (!doing[from?.dataset.does] || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (from.dataset.does === "enlarge" && !document.getElementById("large")) return;
  event.preventDefault();  // of the link that it is without this file
  doing[from.dataset.does](from);
});

// Explanations: each has a place of its own behind its card, which spans the row.

function shut(place) {
  const card = place.previousElementSibling;
  place.replaceChildren();
  card.focus();
}

function shutNearest() {
  const open = [...document.querySelectorAll(".explain:not(:empty)")];
  const near = open.find((place) => place === here()?.nextElementSibling);
  const place = document.activeElement?.closest(".explain") ?? near ?? open.at(-1);
  if (place) shut(place);
}

document.getElementById("sketch")?.addEventListener("close", (event) => {
  if (event.target.returnValue !== "use") return;
  const smiles = event.target.querySelector("iframe").contentWindow.board.smiles();
  const field = document.getElementById("molecule");
  field.value = smiles;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
});

// Keys

function typing(target) {
  return target.matches("input:not([type=radio], [type=checkbox], [type=range]), textarea, select");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.target.id === "q" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      search.requestSubmit();
    }
    return;
  }
  const card = here();
  const press = (what, within = card) => within?.querySelector(`[data-does=${what}]`)?.click();
  const keys = {
    "/": () => search && focusQuery(),
    "?": () => doing.keys(),
    j: () => go(1),
    k: () => go(-1),
    ArrowDown: () => go(1),
    ArrowRight: () => go(1),
    ArrowUp: () => go(-1),
    ArrowLeft: () => go(-1),
    c: () => card && doing.copy(card),
    e: () => press("explain"),
    s: () => press("similar"),
    n: () => press("next", results),
    p: () => press("prev", results),
    Enter: () => press("enlarge"),
    Escape: () => shutNearest(),
  };
  const action = keys[event.key];
  const isOfCard = event.key.startsWith("Arrow") || event.key === "Enter";
  if (!action || (isOfCard && event.target !== card)) return;
  event.preventDefault();
  action();
});

function focusQuery() {
  const of = document.getElementById("by-molecule").checked ? "molecule" : "q";
  const field = document.getElementById(of);
  field.focus();
  field.select();
}

// Where the browser does not fit the field to its text (field-sizing), this does.

if (!CSS.supports("field-sizing", "content")) {
  const field = document.getElementById("q");
  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  };
  field?.addEventListener("input", fit);
  if (field) fit();
}

// Functional groups: a choice from the list becomes a chip and empties the field.

function choose(field) {
  const name = field.value.trim();
  const known = [...document.querySelectorAll("#groups option")].some((o) => o.value === name);
  if (!known) return false;
  const chip = document.createElement("label");
  Object.assign(chip, { className: "chip", title: "Remove" });
  const box = document.createElement("input");
  Object.assign(box, { type: "checkbox", name: field.name, value: name, checked: true });
  chip.append(box, " ", name);
  field.parentElement.querySelector(".chosen").append(chip);
  field.value = "";
  return true;
}

for (const field of document.querySelectorAll(".picker input[list]")) {
  field.addEventListener("change", () => choose(field));
}

search?.addEventListener("change", (event) => {
  const chip = event.target.closest(".chip");
  if (chip) {
    chip.closest(".picker").querySelector("input[list]").focus();
    chip.remove();
  }
  if (event.target.matches("select, [type=range], [type=checkbox]")) search.requestSubmit();
  if (event.target.matches("[name=by]")) focusQuery();
});

// Requests

document.addEventListener("htmx:configRequest", (event) => {
  const sent = event.detail.parameters;  // no empty fields in addresses
  for (const name of [...sent.keys()]) {
    const kept = sent.getAll(name).filter(Boolean);
    sent.delete(name);
    for (const value of kept) sent.append(name, value);
  }
});

for (const [name, busy] of [["beforeRequest", "true"], ["afterRequest", "false"]]) {
  document.addEventListener(`htmx:${name}`, ({ detail }) => {
    for (const one of [detail.elt, detail.target]) one.setAttribute("aria-busy", busy);
  });
}

function failed({ detail }, text) {
  const box = document.createElement("div");
  box.className = "notice wrong";
  box.setAttribute("role", "alert");
  box.textContent = text;
  detail.target.replaceChildren(box);
}

document.addEventListener("htmx:sendError", (event) => failed(event, "The service does not respond. Is it running?"));
document.addEventListener("htmx:timeout", (event) => failed(event, "The service took too long. Try again."));
document.addEventListener("htmx:afterSwap", (event) => {
  const { target } = event.detail;
  if (target.matches(".explain")) target.scrollIntoView({ block: "nearest" });
  if (target.id !== "results") return;
  const asked = document.getElementById(search.by.value === "molecule" ? "molecule" : "q").value;
  document.title = asked ? `${asked.slice(0, 60)} · tmr` : document.title;
});
