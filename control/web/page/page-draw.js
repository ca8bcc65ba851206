// Makes elements, and the few icons. Everything is made by DOM calls: what comes from the master is text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

// Replace what is in a list of facts: pairs of a term and what is said of it; what is no pair is left out.
export function facts(list, pairs) {
  const wanted = pairs.filter(Boolean).map(([term, what]) => {
    const long = String(what).length > 36;
    return html("div", { class: long ? "long" : null }, html("dt", {}, term), html("dd", {}, String(what)));
  });
  // Told every second: unless something changed nothing is touched, so that a selection or a reader's place stays.
  wanted.forEach((each, place) => {
    if (!list.children[place]?.isEqualNode(each)) list.replaceChild(each, list.children[place] ?? list.appendChild(html("div")));
  });
  while (list.children.length > wanted.length) list.lastChild.remove();
}

// What a program has written, under a heading.
export function lines(title, all) {
  const text = html("pre", { tabindex: "0", role: "region", "aria-label": title }, all.join("\n"));
  // What went wrong is at the end.
  requestAnimationFrame(() => { text.scrollTop = text.scrollHeight; });
  return [html("h4", {}, title), text];
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Paths in a box of 24 by 24, drawn as lines.
export const ICONS = {
  ready: "M4 12.5 9.5 18 20 6.5",
  starting: "M12 3v4M12 17v4M3 12h4M17 12h4M5.6 5.6l2.9 2.9M15.5 15.5l2.9 2.9M18.4 5.6l-2.9 2.9M8.5 15.5l-2.9 2.9",
  upgrading: "M5 13V10a4 4 0 0 1 4-4h10M16 2.5 19.5 6 16 9.5M19 11v3a4 4 0 0 1-4 4H5M8 14.5 4.5 18 8 21.5",
  paused: "M8 4v16M16 4v16",
  degraded: "M12 3 22 20.5H2ZM12 9.5v5M12 17.2v.3",
  "rolled-back": "M9 5 3.5 10.5 9 16M4 10.5h10a6 6 0 0 1 0 9.5h-3",
  stopping: "M5 5h14v14H5Z",
  unknown: "M8.5 8.5a3.5 3.5 0 1 1 4.6 3.3c-.8.3-1.1.8-1.1 1.7v1M12 18v.3",
  retiring: "M12 4v13M6.5 11.5 12 17l5.5-5.5M6 21h12",
  cross: "M5 5 19 19M19 5 5 19",
  begin: "M7 4 19 12 7 20Z",
  superseded: "M5 5l7 7-7 7M12 5l7 7-7 7",
};

export function icon(name, attributes = {}) {
  return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", ...attributes }, svg("path", { d: ICONS[name] ?? ICONS.unknown }));
}

// Which icon stands for the outcome of an upgrade; null while it runs.
export function iconOf(outcome) {
  return { null: "upgrading", done: "ready", superseded: "superseded" }[outcome] ?? "rolled-back";
}
