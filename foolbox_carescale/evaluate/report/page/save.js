// What a reader takes away: figures as SVG and PNG, tables as CSV and LaTeX, the view in the address.
const state = new URLSearchParams(location.hash.slice(1));
const remember = (key, value) => {
  if (value === null || value === "") state.delete(key);
  else state.set(key, value);
  history.replaceState(null, "", `#${state}`);
};
const download = (name, content, type) => {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = html("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
};
const fileName = (text, ending) => `${text.replace(/[^\w.-]+/g, "_").slice(0, 80)}.${ending}`;
// the styles of the page do not go with a figure, so each element gets its own
const STYLES = [
  "fill",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "stroke-linejoin",
  "opacity",
  "display",
  "paint-order",
];
const TEXT_STYLES = ["font-family", "font-size", "text-anchor"];
const standalone = (picture) => {
  const copy = picture.cloneNode(true);
  const [, , width, height] = copy.getAttribute("viewBox").split(" ");
  const originals = picture.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, i) => {
    const style = getComputedStyle(originals[i]);
    const names = element.tagName === "text" ? [...STYLES, ...TEXT_STYLES] : STYLES;
    element.setAttribute("style", names.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
    element.removeAttribute("class");
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.prepend(svg("rect", { width, height, fill: getComputedStyle(document.body).getPropertyValue("--card").trim() }));
  return { text: new XMLSerializer().serializeToString(copy), width: Number(width), height: Number(height) };
};
const PNG_SCALE = 3;
const saveFigure = (picture, name) => {
  const png = () => {
    const { text, width, height } = standalone(picture());
    const image = new Image();
    image.onload = () => {
      const canvas = html("canvas", { width: PNG_SCALE * width, height: PNG_SCALE * height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => download(fileName(name, "png"), blob, "image/png"));
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  };
  return html(
    "div",
    { class: "save" },
    button("SVG", () => download(fileName(name, "svg"), standalone(picture()).text, "image/svg+xml")),
    button("PNG", png),
  );
};
const csvField = (value) =>
  typeof value === "number"
    ? String(value)
    : value === null || value === undefined
      ? ""
      : `"${String(value)
          .replace(/^[=+\-@\t\r]/, "'$&")
          .replaceAll('"', '""')}"`;
const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
const inLatex = (text) => text.replace(/[\\&%$#_{}~^]/g, (c) => LATEX[c] || `\\${c}`);
const saveTable = (heads, rows, name) => {
  // what a row shows, without the small print
  const shown = (row) =>
    [...row.element.children].map((place) =>
      [...place.childNodes]
        .filter((node) => node.nodeName !== "SMALL")
        .map((node) => node.textContent)
        .join("")
        .trim(),
    );
  const csv = () =>
    [heads, ...rows.map((row) => row.values)].map((row) => row.map(csvField).join(",")).join("\n") + "\n";
  const latex = () =>
    [
      `\\begin{tabular}{l${"r".repeat(heads.length - 1)}}`,
      "\\toprule",
      `${heads.map(inLatex).join(" & ")} \\\\`,
      "\\midrule",
      ...rows.map((row) => `${shown(row).map(inLatex).join(" & ")} \\\\`),
      "\\bottomrule",
      "\\end{tabular}\n",
    ].join("\n");
  return html(
    "div",
    { class: "save" },
    button("CSV", () => download(fileName(name, "csv"), csv(), "text/csv")),
    button("LaTeX", () => download(fileName(name, "tex"), latex(), "text/plain")),
  );
};
