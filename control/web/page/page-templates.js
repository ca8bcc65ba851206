// The templates, and what of a generation isn't safe to fork.

import { facts, html } from "./page-draw.js";
import { colour } from "./page-seats.js";
import { duration, number, size } from "./page-words.js";

const at = (id) => document.getElementById(id);

export function showTemplates({ status: { templates = [], findings = [] } }) {
  at("templates-card").hidden = templates.length + findings.length === 0;
  replace("templates", html("ul", { id: "templates" }, ...templates.map(template)));
  replace("findings", html("div", { id: "findings" }, ...byGeneration(findings).map(warning)));
}

// Compared first, so that a selection stays.
function replace(id, made) {
  if (!made.isEqualNode(at(id))) at(id).replaceChildren(...made.childNodes);
}

// A master of an older version says less of it.
function template({ generation, pid, state, age_seconds: age, import_seconds: took = null, forks, memory_bytes: memory }) {
  const list = html("dl", { class: "facts" });
  facts(list, [
    ["state", state],
    pid !== null && ["pid", pid],
    pid !== null && [`${state} for`, duration(age)],
    took !== null && ["app imported in", duration(took)],
    forks !== undefined && ["forks", number(forks)],
    memory !== undefined && ["memory", size(memory)],
  ]);
  return html("li", { class: `template ${colour(generation)}` },
    html("span", { class: "generation" }, html("span", { class: "unseen" }, "generation "), String(generation)), list);
}

function byGeneration(findings) {
  const found = new Map();
  for (const each of findings) found.set(each.generation, [...(found.get(each.generation) ?? []), each]);
  return [...found];
}

function warning([generation, found]) {
  const so = found[0].separate ? " Its workers import the app themselves." : "";
  return html("section", { class: "findings", "aria-label": `Not safe to fork in generation ${generation}` },
    html("h3", {}, `Generation ${generation} has what is not safe to fork.${so}`),
    html("ul", {}, ...found.map(({ kind, what, module, advice }) => html("li", {},
      html("strong", {}, `${kind} ${what}`), module ? `, since the import of ${module}` : "",
      html("span", { class: "advice" }, advice)))));
}
