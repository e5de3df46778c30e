// The data, and what builds elements from it. Text goes in as text nodes only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const several = data.runs.length > 1;
const QUANTITIES = {
  loss: "cross-entropy after the attack",
  norm_over_epsilon: "measured norm / epsilon",
  forward_passes: "forward passes",
  backward_passes: "backward passes",
};
const DASHES = ["", "7 4", "2 3", "9 3 2 3", "1 5"];

const make =
  (space) =>
  (tag, attributes = {}, ...children) => {
    const element = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return element;
  };
const html = make(null);
const svg = make("http://www.w3.org/2000/svg");

const card = (title, note, ...content) =>
  html("section", { class: "card" }, typeof title === "string" ? html("h3", {}, title) : title, noteOf(note), content);
const noteOf = (text) => (text ? html("p", { class: "note" }, text) : null);
const button = (text, onclick, more = {}) => html("button", { type: "button", onclick, ...more }, text);
const path = (name, d, more = {}, ...children) => svg("path", { class: name, d, ...more }, children);
const textAt = (x, y, text, anchor = "middle", more = {}) =>
  svg("text", { x, y, "text-anchor": anchor, ...more }, text);

// Numbers; what is not a number is null in the data, and an empty text on the page.
const multiple = (value) => Number((value * 255).toPrecision(3));
const short = (value) =>
  value === null
    ? ""
    : multiple(value) <= 64 && multiple(value) / 255 === value && Number(value.toPrecision(6)) !== value
      ? `${multiple(value)}/255` // as core/fractions.py writes it
      : value && Math.abs(value) < 1e-3
        ? Number(value.toPrecision(3)).toExponential()
        : Number(value.toPrecision(4)).toString();
const fixed = (value, digits = 3) => {
  if (value === null) return "";
  // toFixed rounds ties away from zero, Python, which writes the tables beside the page, to even
  const rounded = value.toFixed(digits);
  const exact = value.toFixed(100);
  const end = exact.length - 100 + digits;
  return /^50*$/.test(exact.slice(end)) && /[13579]$/.test(rounded) ? exact.slice(0, end) : rounded;
};
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
