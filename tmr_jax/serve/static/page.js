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
  close: (from) => {
    const card = from.closest(".card");
    from.closest(".explanation").remove();
    card?.focus();
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
  const from = event.target.closest("button[data-does]");
  if (from && doing[from.dataset.does]) doing[from.dataset.does](from);
});

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
  return target.matches("input:not([type=radio], [type=checkbox]), textarea, select");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const card = here();
  const press = (what) => card?.querySelector(`[data-does=${what}]`)?.click();
  const keys = {
    "/": () => document.querySelector(".field input:not([hidden])") && focusQuery(),
    "?": () => doing.keys(),
    j: () => go(1),
    k: () => go(-1),
    ArrowDown: () => card && go(1),
    ArrowRight: () => card && go(1),
    ArrowUp: () => card && go(-1),
    ArrowLeft: () => card && go(-1),
    c: () => card && doing.copy(card),
    e: () => press("explain"),
    s: () => press("similar"),
    Escape: () => press("close"),
  };
  const action = keys[event.key];
  const used = event.key.startsWith("Arrow") ? card : action;
  if (!action || !used) return;
  event.preventDefault();
  action();
});

function focusQuery() {
  const of = document.getElementById("by-molecule").checked ? "molecule" : "q";
  const field = document.getElementById(of);
  field.focus();
  field.select();
}

// Functional groups: a choice from the list becomes a chip and empties the field.

function choose(field) {
  const name = field.value.trim();
  const known = [...document.querySelectorAll("#groups option")].some((o) => o.value === name);
  if (!known) return false;
  const chip = document.createElement("label");
  chip.className = "chip";
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

function failed(text) {
  const box = document.createElement("div");
  box.className = "notice wrong";
  box.setAttribute("role", "alert");
  box.textContent = text;
  results?.replaceChildren(box);
}

document.addEventListener("htmx:sendError", () => failed("The service does not respond. Is it running?"));
document.addEventListener("htmx:timeout", () => failed("The service took too long. Try again."));
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "results") return;
  const asked = document.getElementById(search.by.value === "molecule" ? "molecule" : "q").value;
  document.title = asked ? `${asked.slice(0, 60)} · tmr` : document.title;
});
