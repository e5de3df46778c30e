// Histograms and classes at one epsilon.
const histograms = (norm, quantity, epsilon) => {
  const ends = norm.edges[quantity][norm.epsilons.indexOf(epsilon)];
  const rows = norm.series.flatMap((one) =>
    one.points.filter((p) => p.e === epsilon && p[quantity]).map((p) => [one, p]),
  );
  if (!rows.length) return noteOf("No sample was attacked here, or this was not measured.");
  const bars = rows.flatMap(([one, p]) => {
    const spread = p[quantity];
    const most = Math.max(...spread.counts, 1);
    const width = 400 / spread.counts.length;
    const [low, high] = ends;
    const shape = spread.counts
      .map(
        (count, i) =>
          `L${(i * width).toFixed(1)},${(32 - (30 * count) / most).toFixed(1)}H${((i + 1) * width).toFixed(1)}`,
      )
      .join("");
    const middle = ((spread.mean - low) / (high - low)) * 400;
    const text =
      `${label(one)}\nepsilon ${short(epsilon)}, ${sum(spread.counts)} attacked samples\n` +
      `mean ${short(spread.mean)}, median ${short(spread.median)}\nfrom ${short(spread.low)} to ${short(spread.high)}`;
    return [
      html("span", { class: "name" }, swatch(one), label(one)),
      svg(
        "svg",
        {
          viewBox: "0 0 400 34",
          preserveAspectRatio: "none",
          "aria-hidden": "true",
          onpointermove: (e) => showTip(e, text),
          onpointerleave: hideTip,
        },
        path(null, `M0,32${shape}V32z`, { style: `fill:${color(one)}`, opacity: "0.8" }),
        path(null, `M${middle},0V32`, {
          style: "stroke:var(--ink);stroke-width:1",
          "vector-effect": "non-scaling-stroke",
        }),
      ),
      html("span", {}, short(spread.mean)),
    ];
  });
  return html(
    "div",
    { class: "rows" },
    bars,
    html("span", { class: "name" }),
    html("div", { class: "ends" }, html("span", {}, short(ends[0])), html("span", {}, short(ends[1]))),
    html("span", { class: "soft" }, "mean"),
  );
};
const classes = (norm, epsilon) => {
  const text = (run, label) => data.runs[run].classes[label];
  // a column holds a class of all runs; where they name it differently, its number is what they share
  const shared = (label) => {
    const texts = new Set(data.runs.map((_, run) => text(run, label)).filter(Boolean));
    return texts.size === 1 ? [...texts][0] : String(label);
  };
  const rows = norm.series.flatMap((one) =>
    one.points.filter((p) => p.e === epsilon && p.classes).map((p) => [one, p.classes]),
  );
  const numbers = [...new Set(rows.flatMap(([, c]) => c.rows.map((row) => row[0])))].sort((a, b) => a - b);
  if (rows.every(([, c]) => !c.profile.length))
    return table(
      ["attack \\ class", ...numbers.map(shared)],
      rows.map(([one, c]) => {
        const at = new Map(c.rows.map((row) => [row[0], row]));
        return [
          nameCell(one),
          ...numbers.map((n) => {
            if (!at.has(n)) return none;
            const [, total, robust] = at.get(n);
            const share = robust / total;
            return { node: [fixed(share, 2), html("small", {}, `of ${total}`)], value: share, style: heat(share) };
          }),
        ];
      }),
    );
  const profile = svg(
    "svg",
    { viewBox: `0 0 ${W} 250`, role: "img", "aria-label": "robust accuracy of the classes, sorted" },
    [0, 0.5, 1].map((tick) => [
      path("grid", `M${LEFT},${215 - 200 * tick}H${W - RIGHT}`),
      textAt(LEFT - 8, 219 - 200 * tick, String(tick), "end"),
    ]),
    textAt(W / 2, 243, "classes, from the least to the most robust (%)"),
    rows.map(([one, c]) => {
      const x = (i) => (LEFT + (i / (c.profile.length - 1)) * (W - LEFT - RIGHT)).toFixed(1);
      const d = c.profile.map((v, i) => `${i ? "L" : "M"}${x(i)},${(215 - 200 * v).toFixed(1)}`).join("");
      return svg("path", { ...stroke(one), d });
    }),
  );
  const listed = (one, those) =>
    those.map(([label, total, robust]) => `${text(one.run, label)} (${robust}/${total})`).join(", ");
  return html(
    "div",
    {},
    profile,
    table(
      ["attack", "least robust classes (robust / samples)", "most robust classes"],
      rows.map(([one, c]) => [
        nameCell(one),
        { node: listed(one, c.rows.slice(0, 6)), value: c.rows[0][2] / c.rows[0][1], class: "left" },
        { node: listed(one, c.rows.slice(-6).reverse()), value: c.rows.at(-1)[2] / c.rows.at(-1)[1], class: "left" },
      ]),
    ),
  );
};
