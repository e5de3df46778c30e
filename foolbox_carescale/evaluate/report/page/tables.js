// Tables that a click on a column sorts.
// A row is a list of {node: text or element, value: to sort by, style, class}.
const wide = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const cut = target.scrollWidth > target.clientWidth;
    target.previousSibling.hidden = !cut;
    // so that keys scroll it
    if (cut) target.setAttribute("tabindex", "0");
    else target.removeAttribute("tabindex");
  }
});
const table = (heads, rows) => {
  const made = rows.map((row) => ({
    values: row.map((cell) => cell.value),
    element: html(
      "tr",
      {},
      row.map((cell) => html("td", { style: cell.style, class: cell.class }, cell.node)),
    ),
  }));
  const body = html(
    "tbody",
    {},
    made.map((row) => row.element),
  );
  const sort = (event, column) => {
    const th = event.currentTarget.parentNode;
    const sign = th.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.children) other.setAttribute("aria-sort", "none");
    th.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const sorted = [...made].sort((s, t) => compare(s.values[column], t.values[column], sign));
    body.append(...sorted.map((row) => row.element));
  };
  const head = html(
    "tr",
    {},
    heads.map((text, column) => {
      const left = rows[0] && rows[0][column].class === "left";
      const attributes = { scope: "col", "aria-sort": "none", class: left ? "left" : null };
      return html(
        "th",
        attributes,
        button(text, (event) => sort(event, column)),
      );
    }),
  );
  const scroll = html("div", { class: "scroll" }, html("table", {}, html("thead", {}, head), body));
  const hint = html("p", { class: "note hint", hidden: true }, "More columns to the right: scroll the table →");
  wide.observe(scroll);
  return html("div", {}, hint, scroll, saveTable(heads, made, heads.join(" ")));
};
const compare = (a, b, sign) => {
  if (a === null || b === null) return (a === null) - (b === null); // what was not measured comes last, either way
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
};
const heat = (share) =>
  `background-image:linear-gradient(color-mix(in srgb, var(--heat) ${Math.round(46 * share)}%, transparent) 0 0)`;
const nameCell = (one) => ({ node: [swatch(one), label(one)], value: label(one) });
const none = { node: "", value: null };
const byEpsilon = (norm, cell, choose = () => true) => {
  const rows = norm.series.filter(choose).map((one) => {
    const at = new Map(one.points.map((p) => [p.e, p]));
    return [nameCell(one), ...norm.epsilons.map((e) => (at.has(e) && cell(at.get(e))) || none)];
  });
  return table(["attack", ...norm.epsilons.map(short)], rows);
};
const accuracyTable = (norm) =>
  byEpsilon(norm, (p) =>
    p.attacked
      ? {
          node: [fixed(p.k / p.n), html("small", {}, `${fixed(p.low, 2)}–${fixed(p.high, 2)}`)],
          value: p.k / p.n,
          style: heat(p.k / p.n),
        }
      : { node: "not attacked", value: null },
  );
const normTable = (norm) =>
  byEpsilon(
    norm,
    (p) =>
      p.norm_over_epsilon && {
        node: [fixed(p.norm_over_epsilon.mean), html("small", {}, `min ${fixed(p.norm_over_epsilon.low)}`)],
        value: p.norm_over_epsilon.mean,
      },
    (one) => !one.worst && !one.minimum,
  );
const minimumTable = (norm) => {
  const found = norm.series.filter((one) => one.minimum && !one.worst);
  if (!found.length) return null;
  const quantiles = found[0].minimum.quantiles.map(([share]) => `${100 * share}%`);
  return card(
    "Minimum norm",
    "Norm of the nearest adversarial example that was found: quantiles over all samples, 0 where the model is wrong " +
      "without an attack. The median (50%) is the epsilon at which half of the samples are misclassified; " +
      "∞: nothing was found for so many.",
    table(
      ["attack", ...quantiles, "none found"],
      found.map((one) => [
        nameCell(one),
        ...one.minimum.quantiles.map(([, norm]) => ({
          node: norm === null ? "∞" : short(norm),
          value: norm === null ? Infinity : norm,
        })),
        { node: String(one.minimum.none), value: one.minimum.none },
      ]),
    ),
  );
};
const differenceTable = (norm) => {
  const found = data.differences.filter((d) => d.norm === norm.name);
  const names = [...new Map(found.map((d) => [`${d.attack} ${d.run}`, d])).values()];
  const base = data.runs[0].name;
  if (!found.length) return null;
  const epsilons = norm.epsilons.filter((e) => found.some((d) => d.e === e));
  const rows = names.map((name) => [
    { node: `${name.attack} · ${name.run}`, value: `${name.attack} · ${name.run}` },
    ...epsilons.map((e) => {
      const d = found.find((one) => one.attack === name.attack && one.run === name.run && one.e === e);
      if (!d) return none;
      const sense = d.value > 0 ? "up" : "down";
      const number = html("span", { class: d.beyond ? sense : null }, (d.value > 0 ? "+" : "") + fixed(d.value));
      return { node: [number, html("small", {}, `${fixed(d.low, 2)} to ${fixed(d.high, 2)}`)], value: d.value };
    }),
  ]);
  const kinds = new Map(
    found.map((d) => [
      d.run,
      d.paired ? ` over the ${d.n} samples that both have, paired` : ", not paired: the samples differ",
    ]),
  );
  const paired =
    new Set(kinds.values()).size === 1
      ? [...kinds.values()][0]
      : `: ${[...kinds].map(([run, kind]) => run + kind).join("; ")}`;
  return card(
    `Robust accuracy minus that of ${base}`,
    `With Newcombe’s 95% interval${paired}. Coloured where the interval excludes 0; ` +
      "about one in twenty settings does so by chance.",
    table(["attack", ...epsilons.map(short)], rows),
  );
};
const costTable = (norm, epsilon) => {
  const optional = (spread) => (spread ? { node: short(spread.mean), value: spread.mean } : none);
  const rows = norm.series
    .filter((one) => !one.worst)
    .flatMap((one) =>
      one.points
        .filter((p) => p.e === epsilon)
        .map((p) => [
          nameCell(one),
          { node: String(p.attacked), value: p.attacked },
          optional(p.loss),
          optional(p.forward_passes),
          optional(p.backward_passes),
          { node: short(p.seconds), value: p.seconds },
          p.quantised === null ? none : { node: fixed(p.quantised), value: p.quantised },
        ]),
    );
  const heads = [
    "attack",
    "attacked",
    "mean loss",
    "forward passes",
    "backward passes",
    "seconds",
    "still adversarial after 8-bit quantisation",
  ];
  const known = heads.map((_, column) => rows.some((row) => row[column].value !== null));
  return table(
    heads.filter((_, column) => known[column]),
    rows.map((row) => row.filter((_, column) => known[column])),
  );
};
