"use strict";
// Draws the page from the JSON beside it. Text goes in as text nodes only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const several = data.runs.length > 1;
  const QUANTITIES = {
    loss: "cross-entropy after the attack", norm_over_epsilon: "realised norm / epsilon",
    forward_passes: "forward passes", backward_passes: "backward passes",
  };
  const DASHES = ["", "7 4", "2 3", "9 3 2 3", "1 5"];

  const make = (space) => (tag, attributes = {}, ...children) => {
    const element = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return element;
  };
  const html = make(null), svg = make("http://www.w3.org/2000/svg");
  const short = (value) => (value && Math.abs(value) < 1e-3 ? Number(value.toPrecision(3)).toExponential() : Number(value.toPrecision(4)).toString());
  const fixed = (value, digits = 3) => value.toFixed(digits);
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

  // ---- how a series looks ----
  const color = (one) => {
    const own = one.worst ? "var(--ink)" : `var(--${one.source}-${one.hue})`;
    return one.run ? `color-mix(in oklab, ${own} ${one.run % 2 ? 58 : 78}%, ${one.run % 2 ? "var(--ink)" : "var(--card)"})` : own;
  };
  const label = (one) => (several ? `${one.attack} · ${data.runs[one.run].name}` : one.attack);
  const SHAPES = [
    (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
    (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
    (r) => `M0,${-1.2 * r}L${1.2 * r},${r}L${-1.2 * r},${r}z`,
    (r) => `M0,${1.2 * r}L${1.2 * r},${-r}L${-1.2 * r},${-r}z`,
    (r) => `M${-r / 2.5},${-r}h${r * 0.8}v${r * 0.6}h${r * 0.6}v${r * 0.8}h${-r * 0.6}v${r * 0.6}h${-r * 0.8}v${-r * 0.6}h${-r * 0.6}v${-r * 0.8}h${r * 0.6}z`,
  ];
  const dot = (one, x, y, r = 4) => svg("path", {
    class: "dot", d: SHAPES[one.marker](r), transform: `translate(${x},${y})`, style: `fill:${color(one)}`,
  });
  const stroke = (one) => ({
    style: `stroke:${color(one)}`, class: one.worst ? "curve halo" : "curve", "stroke-dasharray": DASHES[one.run % DASHES.length] || null,
  });
  const swatch = (one) => svg("svg", { viewBox: "0 0 34 14", class: "swatch", "aria-hidden": "true" },
    svg("path", { d: "M1,7H33", ...stroke(one) }), one.worst ? null : dot(one, 17, 7));

  // ---- tooltip ----
  const tip = document.getElementById("tip");
  const showTip = (event, text) => {
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const x = event.clientX + 16, y = event.clientY + 14;
    tip.style.left = `${Math.max(4, x + width > innerWidth ? event.clientX - width - 12 : x)}px`;
    tip.style.top = `${Math.max(4, y + height > innerHeight ? event.clientY - height - 12 : y)}px`;
  };
  const hideTip = () => { tip.hidden = true; };

  // ---- charts over epsilon ----
  const narrow = matchMedia("(max-width: 760px)").matches;
  const W = narrow ? 440 : 760, LEFT = 52, RIGHT = 14, TOP = 14, BOTTOM = 46;
  const scaleX = (epsilons, log) => {
    const at = log ? Math.log : (value) => value;
    const low = log ? at(epsilons[0]) : 0, high = at(epsilons[epsilons.length - 1]);
    const room = log ? 0.04 * (high - low) || 0.5 : 0.02 * high;
    return (e) => LEFT + ((at(e) - low + room) / (high - low + 2 * room)) * (W - LEFT - RIGHT);
  };
  const chart = (norm, log, H, ends, ticks, name, unit, draw) => {
    const x = scaleX(norm.epsilons, log);
    const y = (value) => TOP + (1 - (value - ends[0]) / (ends[1] - ends[0])) * (H - TOP - BOTTOM);
    const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${name} by epsilon, ${norm.name}; the table below has the numbers` });
    for (const tick of ticks) picture.append(
      svg("path", { class: "grid", d: `M${LEFT},${y(tick)}H${W - RIGHT}` }),
      svg("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
    let last = -Infinity;
    for (const epsilon of norm.epsilons) {
      const place = x(epsilon), crowded = place - last < 40;
      picture.append(svg("path", { class: "axis", d: `M${place},${H - BOTTOM}v${crowded ? 3 : 5}` }));
      if (crowded) continue;
      picture.append(svg("text", { x: place, y: H - BOTTOM + 19, "text-anchor": "middle" }, short(epsilon)));
      last = place;
    }
    picture.append(
      svg("path", { class: "axis", d: `M${LEFT},${H - BOTTOM}H${W - RIGHT}` }),
      svg("text", { x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle" }, `epsilon (${norm.name})`),
      svg("text", { x: 13, y: (TOP + H - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 13 ${(TOP + H - BOTTOM) / 2})` }, unit));
    const spots = [];
    const drawn = norm.series.map((one, number) => [one, number]).sort(([a], [b]) => b.worst - a.worst);  // halos lie below
    drawn.forEach(([one, number]) => {
      const group = svg("g", { class: "series", "data-series": number });
      draw(group, one, x, y, (point, place, text) => spots.push({ number, group, x: x(point.e), y: place, text }));
      if (group.childNodes.length) picture.append(group);
    });
    const near = (event) => {
      const box = picture.getBoundingClientRect(), scale = W / box.width;
      const mx = (event.clientX - box.left) * scale, my = (event.clientY - box.top) * scale;
      let best = null, distance = 34;
      for (const spot of spots) {
        const d = Math.hypot(spot.x - mx, spot.y - my);
        if (d <= distance && !spot.group.classList.contains("off")) [best, distance] = [spot, d];
      }
      if (best) showTip(event, best.text); else hideTip();
    };
    picture.addEventListener("pointermove", near);
    picture.addEventListener("pointerdown", near);
    picture.addEventListener("pointerleave", hideTip);
    return { picture, y };
  };
  const explain = (one, point) => {
    const lines = [label(one), `epsilon ${short(point.e)}`,
      `robust accuracy ${fixed(point.k / point.n)}, 95%: ${fixed(point.low)} to ${fixed(point.high)} (${point.k} of ${point.n})`];
    const ratio = point.norm_over_epsilon;
    if (ratio) lines.push(`norm / epsilon: mean ${fixed(ratio.mean)}, min ${fixed(ratio.low)}, max ${fixed(ratio.high)}`);
    if (point.loss) lines.push(`cross-entropy: mean ${short(point.loss.mean)}`);
    if (point.backward_passes) lines.push(`gradients per sample: ${short(point.backward_passes.mean)}`);
    if (one.name) lines.push(`${one.name} ${one.params}`);
    return lines.join("\n");
  };
  const line = (points, x, height) => points.map((p, i) => `${i ? "L" : "M"}${x(p.e).toFixed(1)},${height(p).toFixed(1)}`).join("");
  const curves = (norm, log) => {
    const made = chart(norm, log, narrow ? 340 : 400, [-0.02, 1.02], [0, 0.2, 0.4, 0.6, 0.8, 1], "robust accuracy", "robust accuracy", (group, one, x, y, spot) => {
      const up = line(one.points, x, (p) => y(p.high));
      const down = line([...one.points].reverse(), x, (p) => y(p.low)).replace("M", "L");
      if (!one.worst && one.points.length > 1) group.append(svg("path", { class: "band", d: `${up}${down}z`, style: `fill:${color(one)}` }));
      if (one.points.length === 1) group.append(svg("path", { class: "whisker", d: `M${x(one.points[0].e)},${y(one.points[0].low)}V${y(one.points[0].high)}`, style: `stroke:${color(one)}` }));
      group.append(svg("path", { d: line(one.points, x, (p) => y(p.k / p.n)), ...stroke(one) }));
      for (const point of one.points) {
        if (!one.worst) group.append(dot(one, x(point.e), y(point.k / point.n)));
        spot(point, y(point.k / point.n), explain(one, point));
      }
    });
    data.runs.forEach((run, i) => {
      const place = made.y(run.clean.k / run.clean.n);
      made.picture.append(svg("path", { class: "clean", d: `M${LEFT},${place}H${W - RIGHT}` }, svg("title", {}, `clean accuracy of ${run.name}: ${fixed(run.clean.k / run.clean.n)}`)));
      if (i === 0) made.picture.append(svg("text", { x: W - RIGHT - 4, y: place - 5, "text-anchor": "end" }, "clean accuracy"));
    });
    return made.picture;
  };
  const sizes = (norm, log) => {
    const ratios = norm.series.flatMap((one) => one.points.map((p) => p.norm_over_epsilon).filter(Boolean));
    const low = Math.min(0.9, ...ratios.map((r) => r.low)), high = Math.max(1.02, ...ratios.map((r) => r.high));
    const from = Math.floor(low * 10) / 10, step = (high - from) / 5 > 0.1 ? 0.2 : 0.1, ticks = [];
    for (let tick = from; tick <= high + 1e-9; tick += step) ticks.push(Number(tick.toFixed(2)));
    return chart(norm, log, 260, [from - 0.005, high + 0.01], ticks, "realised norm / epsilon", "norm / epsilon", (group, one, x, y, spot) => {
      const known = one.points.filter((p) => p.norm_over_epsilon);
      if (!known.length) return;
      for (const p of known) group.append(svg("path", { class: "whisker", d: `M${x(p.e)},${y(p.norm_over_epsilon.low)}V${y(p.norm_over_epsilon.high)}`, style: `stroke:${color(one)}` }));
      group.append(svg("path", { d: line(known, x, (p) => y(p.norm_over_epsilon.mean)), ...stroke(one) }));
      for (const p of known) {
        group.append(dot(one, x(p.e), y(p.norm_over_epsilon.mean)));
        spot(p, y(p.norm_over_epsilon.mean), explain(one, p));
      }
    }).picture;
  };
  const legend = (panel, norm) => {
    const groups = (number) => panel.querySelectorAll(`g.series[data-series="${number}"]`);
    const buttons = norm.series.map((one, number) => html("button", {
      type: "button", "aria-pressed": "true", title: one.name ? `${one.name} ${one.params}` : null,
      onclick: (event) => toggle(number, event.currentTarget.getAttribute("aria-pressed") !== "true"),
      onpointerenter: () => panel.querySelectorAll("g.series").forEach((g) => g.classList.toggle("dim", g.dataset.series !== String(number))),
      onpointerleave: () => panel.querySelectorAll("g.series").forEach((g) => g.classList.remove("dim")),
    }, swatch(one), html("span", {}, label(one))));
    const toggle = (number, on) => {
      buttons[number].setAttribute("aria-pressed", String(on));
      groups(number).forEach((g) => g.classList.toggle("off", !on));
    };
    const all = (on) => html("button", { type: "button", onclick: () => buttons.forEach((_, i) => toggle(i, on)) }, on ? "show all" : "hide all");
    const restore = () => buttons.forEach((b, i) => toggle(i, b.getAttribute("aria-pressed") === "true"));
    return { element: html("div", {}, html("div", { class: "legend" }, buttons), buttons.length > 6 ? html("div", { class: "bar" }, all(true), all(false)) : null), restore };
  };

  // ---- tables ----
  const table = (heads, rows) => {
    // a row is a list of {text or node, value to sort by, style, class}
    const body = html("tbody", {}, rows.map((row) => html("tr", {}, row.map((cell) => html("td", { style: cell.style, class: cell.class }, cell.node)))));
    const order = [...body.children], values = new Map(order.map((tr, i) => [tr, rows[i].map((cell) => cell.value)]));
    const head = html("tr", {}, heads.map((text, column) => html("th", { scope: "col", "aria-sort": "none", class: rows[0] && rows[0][column].class === "left" ? "left" : null }, html("button", {
      type: "button",
      onclick: (event) => {
        const th = event.currentTarget.parentNode, sign = th.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of head.children) other.setAttribute("aria-sort", "none");
        th.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const compare = (a, b) => (a === null) - (b === null) || (typeof a === "string" ? a.localeCompare(b) : a - b);
        const place = new Map(order.map((tr, i) => [tr, i]));
        body.append(...[...order].sort((s, t) => {
          const [a, b] = [values.get(s)[column], values.get(t)[column]];
          return (a === null || b === null ? compare(a, b) : sign * compare(a, b)) || place.get(s) - place.get(t);
        }));
      },
    }, text))));
    return html("div", { class: "scroll" }, html("table", {}, html("thead", {}, head), body));
  };
  const heat = (share) => `background-image:linear-gradient(color-mix(in srgb, var(--heat) ${Math.round(46 * share)}%, transparent) 0 0)`;
  const nameCell = (one) => ({ node: [swatch(one), label(one)], value: label(one) });
  const none = { node: "", value: null };
  const byEpsilon = (norm, cell, choose = () => true) => {
    const rows = norm.series.filter(choose).map((one) => {
      const at = new Map(one.points.map((p) => [p.e, p]));
      return [nameCell(one), ...norm.epsilons.map((e) => (at.has(e) && cell(at.get(e))) || none)];
    });
    return table(["attack", ...norm.epsilons.map(short)], rows);
  };
  const accuracyTable = (norm) => byEpsilon(norm, (p) => ({
    node: [fixed(p.k / p.n), html("small", {}, `${fixed(p.low, 2)}–${fixed(p.high, 2)}`)], value: p.k / p.n, style: heat(p.k / p.n),
  }));
  const sizeTable = (norm) => byEpsilon(norm, (p) => p.norm_over_epsilon && {
    node: [fixed(p.norm_over_epsilon.mean), html("small", {}, `min ${fixed(p.norm_over_epsilon.low)}`)], value: p.norm_over_epsilon.mean,
  }, (one) => !one.worst);
  const differenceTable = (norm) => {
    const found = data.differences.filter((d) => d.norm === norm.name);
    const names = [...new Map(found.map((d) => [`${d.attack} ${d.run}`, d])).values()], base = data.runs[0].name;
    if (!found.length) return null;
    const rows = names.map((name) => [{ node: `${name.attack} · ${name.run}`, value: `${name.attack} · ${name.run}` }, ...norm.epsilons.map((e) => {
      const d = found.find((one) => one.attack === name.attack && one.run === name.run && one.e === e);
      return d ? { node: [html("span", { class: d.beyond ? (d.value > 0 ? "up" : "down") : null }, (d.value > 0 ? "+" : "") + fixed(d.value)), html("small", {}, `${fixed(d.low, 2)} to ${fixed(d.high, 2)}`)], value: d.value } : none;
    })]);
    const paired = found.every((d) => d.paired) ? ` over the ${found[0].n} samples that both have, paired` : ", not paired: the samples differ";
    return html("section", { class: "card" }, html("h3", {}, `Robust accuracy minus that of ${base}`),
      html("p", { class: "note" }, `With Newcombe’s 95% interval${paired}. Coloured where the interval excludes 0; of many cells, about one in twenty does so by chance.`),
      table(["attack", ...norm.epsilons.map(short)], rows));
  };
  const costTable = (norm, epsilon) => {
    const optional = (spread) => (spread ? { node: short(spread.mean), value: spread.mean } : none);
    const rows = norm.series.filter((one) => !one.worst).flatMap((one) => one.points.filter((p) => p.e === epsilon).map((p) => [
      nameCell(one), { node: String(p.attacked), value: p.attacked }, optional(p.loss), optional(p.forward_passes), optional(p.backward_passes),
      { node: short(p.seconds), value: p.seconds }, p.survived === null ? none : { node: fixed(p.survived), value: p.survived },
    ]));
    const heads = ["attack", "attacked", "mean loss", "forward passes", "backward passes", "seconds", "kept after 8 bits"];
    const known = heads.map((_, column) => rows.some((row) => row[column].value !== null));
    return table(heads.filter((_, column) => known[column]), rows.map((row) => row.filter((_, column) => known[column])));
  };

  // ---- distributions and classes, at one epsilon ----
  const histograms = (norm, quantity, epsilon) => {
    const ends = norm.edges[quantity][norm.epsilons.indexOf(epsilon)];
    const rows = norm.series.flatMap((one) => one.points.filter((p) => p.e === epsilon && p[quantity]).map((p) => [one, p]));
    if (!rows.length) return html("p", { class: "note" }, "Nothing was attacked here, or this was not measured.");
    const bars = rows.flatMap(([one, p]) => {
      const spread = p[quantity], most = Math.max(...spread.counts, 1), width = 400 / spread.counts.length, [low, high] = ends;
      const shape = spread.counts.map((count, i) => `L${(i * width).toFixed(1)},${(32 - 30 * count / most).toFixed(1)}H${((i + 1) * width).toFixed(1)}`).join("");
      const middle = ((spread.mean - low) / (high - low)) * 400;
      const text = `${label(one)}\nepsilon ${short(epsilon)}, ${sum(spread.counts)} attacked samples\nmean ${short(spread.mean)}, median ${short(spread.median)}\nfrom ${short(spread.low)} to ${short(spread.high)}`;
      return [html("span", { class: "name" }, swatch(one), label(one)),
        svg("svg", { viewBox: "0 0 400 34", preserveAspectRatio: "none", "aria-hidden": "true", onpointermove: (e) => showTip(e, text), onpointerleave: hideTip },
          svg("path", { d: `M0,32${shape}V32z`, style: `fill:${color(one)}`, opacity: "0.8" }),
          svg("path", { d: `M${middle},0V32`, style: "stroke:var(--ink);stroke-width:1", "vector-effect": "non-scaling-stroke" })),
        html("span", {}, short(spread.mean))];
    });
    return html("div", { class: "rows" }, bars, html("span", { class: "name" }), html("div", { class: "ends" }, html("span", {}, short(ends[0])), html("span", {}, short(ends[1]))), html("span", { class: "soft" }, "mean"));
  };
  const classes = (norm, epsilon) => {
    const rows = norm.series.flatMap((one) => one.points.filter((p) => p.e === epsilon && p.classes).map((p) => [one, p.classes]));
    const numbers = [...new Set(rows.flatMap(([, c]) => c.rows.map((row) => row[0])))].sort((a, b) => a - b);
    if (rows.every(([, c]) => !c.profile.length)) return table(["attack \\ class", ...numbers.map(String)], rows.map(([one, c]) => {
      const at = new Map(c.rows.map((row) => [row[0], row]));
      return [nameCell(one), ...numbers.map((n) => at.has(n) ? { node: [fixed(at.get(n)[2] / at.get(n)[1], 2), html("small", {}, `of ${at.get(n)[1]}`)], value: at.get(n)[2] / at.get(n)[1], style: heat(at.get(n)[2] / at.get(n)[1]) } : none)];
    }));
    const profile = svg("svg", { viewBox: `0 0 ${W} 250`, role: "img", "aria-label": "robust accuracy of the classes, sorted" },
      [0, 0.5, 1].map((tick) => [svg("path", { class: "grid", d: `M${LEFT},${215 - 200 * tick}H${W - RIGHT}` }), svg("text", { x: LEFT - 8, y: 219 - 200 * tick, "text-anchor": "end" }, String(tick))]),
      svg("text", { x: W / 2, y: 243, "text-anchor": "middle" }, "classes, from the least to the most robust (%)"),
      rows.map(([one, c]) => svg("path", { ...stroke(one), d: c.profile.map((v, i) => `${i ? "L" : "M"}${(LEFT + (i / (c.profile.length - 1)) * (W - LEFT - RIGHT)).toFixed(1)},${(215 - 200 * v).toFixed(1)}`).join("") })));
    const listed = (those) => those.map((row) => `${row[0]} (${row[2]}/${row[1]})`).join(", ");
    return html("div", {}, profile, table(["attack", "least robust classes (robust / samples)", "most robust classes"], rows.map(([one, c]) => [nameCell(one),
      { node: listed(c.rows.slice(0, 6)), value: c.rows[0][2] / c.rows[0][1], class: "left" }, { node: listed(c.rows.slice(-6).reverse()), value: c.rows.at(-1)[2] / c.rows.at(-1)[1], class: "left" }])));
  };

  // ---- the parts of the page ----
  const choice = (text, options, onchange, chosen) => html("label", {}, text, html("select", { onchange: (e) => onchange(e.currentTarget.value) },
    options.map(([value, name]) => html("option", { value, selected: value === chosen }, name))));
  const panelOf = (norm, id) => {
    const panel = html("div", { role: "tabpanel", id, "aria-label": norm.name });
    const holes = { curves: html("div"), sizes: html("div"), histograms: html("div"), costs: html("div"), classes: html("div") };
    const key = legend(panel, norm);
    let log = norm.epsilons.length > 1 && norm.epsilons.at(-1) / norm.epsilons[0] > 4, quantity = "loss";
    const counts = norm.epsilons.map((e) => sum(norm.series.map((one) => (one.worst ? 0 : one.points.filter((p) => p.e === e).length))));
    const most = norm.epsilons.filter((e, i) => counts[i] === Math.max(...counts));
    let epsilon = most[Math.floor((most.length - 1) / 2)];
    const drawCurves = () => { holes.curves.replaceChildren(curves(norm, log)); holes.sizes.replaceChildren(sizes(norm, log)); key.restore(); };
    const drawOne = () => {
      holes.histograms.replaceChildren(histograms(norm, quantity, epsilon));
      holes.costs.replaceChildren(costTable(norm, epsilon));
      holes.classes.replaceChildren(classes(norm, epsilon));
    };
    const scale = html("button", { type: "button", onclick: (e) => { log = !log; e.currentTarget.textContent = log ? "linear epsilon" : "logarithmic epsilon"; drawCurves(); } }, log ? "linear epsilon" : "logarithmic epsilon");
    const known = Object.entries(QUANTITIES).filter(([name]) => norm.edges[name].some(Boolean));
    panel.append(
      html("section", { class: "card" }, html("div", { class: "bar" }, html("h3", {}, "Security curves"), norm.epsilons.length > 1 ? scale : null),
        html("p", { class: "note" }, "Share of all samples that are right without and with the attack, with Wilson’s 95% interval. “all attacks” counts a sample as robust only if it withstands every attack at this epsilon and below. Click a name to hide it."),
        html("div", { class: "plot" }, holes.curves, key.element)),
      html("section", { class: "card" }, html("h3", {}, "Robust accuracy"), html("p", { class: "note" }, "By epsilon; below each number its 95% interval. Click a column to sort."), accuracyTable(norm)), differenceTable(norm) || "",
      html("section", { class: "card" }, html("h3", {}, "Realised norm / epsilon"), html("p", { class: "note" }, "What is left of epsilon after the clip: mean, and whiskers from the least to the greatest. Below 1 the curve above belongs to a smaller epsilon than its label says."), html("div", { class: "plot" }, holes.sizes), sizeTable(norm)),
      html("section", { class: "card" }, html("div", { class: "bar" }, html("h3", {}, "Distributions over the attacked samples"),
        choice("of", known, (value) => { quantity = value; drawOne(); }, quantity),
        choice("at epsilon", norm.epsilons.map((e) => [String(e), short(e)]), (value) => { epsilon = norm.epsilons.find((e) => String(e) === value); drawOne(); }, String(epsilon))),
      holes.histograms, html("p", {}), holes.costs),
      html("section", { class: "card" }, html("h3", {}, "Robust accuracy by class"), html("p", { class: "note" }, "At the epsilon chosen above. Few samples per class say little."), holes.classes));
    drawCurves();
    drawOne();
    return panel;
  };
  const results = () => {
    const panels = data.norms.map((norm, i) => panelOf(norm, `norm-${i}`));
    const tabs = data.norms.map((norm, i) => html("button", {
      type: "button", role: "tab", "aria-controls": `norm-${i}`, onclick: () => select(i),
      onkeydown: (e) => { const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (step) { const next = (i + step + tabs.length) % tabs.length; select(next); tabs[next].focus(); } },
    }, norm.name));
    const select = (chosen) => panels.forEach((panel, i) => {
      panel.hidden = i !== chosen;
      tabs[i].setAttribute("aria-selected", String(i === chosen));
      tabs[i].tabIndex = i === chosen ? 0 : -1;
    });
    select(0);
    return [html("h2", {}, "Results by norm"), html("div", { role: "tablist", "aria-label": "norm" }, tabs), ...panels];
  };
  const tile = (value, text, more) => html("div", { class: "tile" }, html("b", {}, value), html("span", {}, text), more ? html("span", {}, more) : null);
  const summary = () => html("div", { class: several ? "runs" : null }, data.runs.map((run, number) => {
    const tiles = [tile(fixed(run.clean.k / run.clean.n), "clean accuracy", `95%: ${fixed(run.clean.low)} to ${fixed(run.clean.high)}, ${run.clean.n} samples`)];
    for (const norm of data.norms) {
      // where attacks still differ: the largest epsilon with a robust accuracy of at least a half
      const own = norm.series.filter((one) => one.run === number), worst = own.find((one) => one.worst) || own[0];
      if (!worst) continue;
      const p = [...worst.points].reverse().find((q) => q.k / q.n >= 0.5) || worst.points[0];
      tiles.push(tile(fixed(p.k / p.n), `robust at ${norm.name} ${short(p.e)}, ${worst.worst ? "all attacks" : worst.attack}`, `95%: ${fixed(p.low)} to ${fixed(p.high)}`));
    }
    return html("section", { class: "card" }, html("h3", {}, `${run.model} on ${run.data}`), html("p", { class: "soft" }, run.name), html("div", { class: "tiles" }, tiles),
      run.diagnostics.length ? run.diagnostics.map((d) => html("div", { class: "diagnostic" }, html("b", {}, d.message), d.remedy ? ` — ${d.remedy}.` : "")) : html("p", { class: "fine" }, "✓ no warning"));
  }), html("p", { class: "note" }, "Each norm at the largest epsilon that at least half of the samples withstand, or at its smallest; all epsilons are below."));
  const pictures = () => {
    const runs = data.pictures.runs.filter((run) => run.samples.length);
    if (!runs.length) return [];
    const hole = html("div", { class: "gallery" }), thumbs = html("div", { class: "thumbs" });
    const image = (source, alt) => html("img", { src: source, alt, class: data.pictures.shown <= 64 ? "pixels" : null });
    const show = (sample, pressed) => {
      for (const button of thumbs.children) button.classList.toggle("pressed", button === pressed);
      hole.replaceChildren(...sample.attacks.map((a) => {
        const fooled = a.prediction !== sample.label;
        return html("figure", {}, html("figcaption", {}, html("b", {}, a.attack), `${a.norm} ${short(a.epsilon)}: class ${sample.label} → `,
          html("span", { class: fooled ? "fooled" : null }, fooled ? `${a.prediction}` : `${a.prediction} (not fooled)`)),
        html("div", { class: "trio" }, html("span", {}, image(sample.clean, `clean, class ${sample.label}`), "clean"),
          html("span", {}, image(a.adversarial, `after ${a.attack}, class ${a.prediction}`), "adversarial"), html("span", {}, image(a.difference, "difference, scaled to its largest change"), `difference ×${short(Number((0.5 / Math.max(a.largest, 1e-12)).toPrecision(2)))}`)));
      }));
    };
    for (const run of runs) for (const sample of run.samples) thumbs.append(html("button", { type: "button", onclick: (e) => show(sample, e.currentTarget) },
      image(sample.clean, `class ${sample.label}`), several ? `${run.name}: ${sample.label}` : `class ${sample.label}`));
    show(runs[0].samples[0], thumbs.firstChild);
    const reduced = data.pictures.shown < data.pictures.side ? ` Shown at ${data.pictures.shown} of ${data.pictures.side} pixels.` : "";
    return [html("h2", {}, "Images"), html("section", { class: "card" }, html("p", { class: "note" }, `The first samples that were attacked, at the middle epsilon of each attack. Differences are around grey, scaled to their largest change.${reduced}`), thumbs, hole)];
  };
  const setup = () => [html("h2", {}, "Setup"),
    data.config.length ? html("section", { class: "card" }, html("h3", {}, "What differs between the configs"), table(["key", ...data.runs.map((run) => run.name)],
      data.config.map(([name, values]) => [{ node: name, value: name }, ...values.map((v) => ({ node: v, value: v, class: "left" }))]))) : null,
    ...data.runs.map((run) => html("section", { class: "card" }, html("details", { open: !several }, html("summary", {}, several ? `Config of ${run.name}` : "Config"),
      html("p", { class: "note" }, run.versions), html("pre", {}, run.config))))];

  document.title = `Robustness of ${data.title}`;
  document.getElementById("top").append(html("h1", {}, "Robustness report"), html("p", { class: "soft" }, data.title));
  document.getElementById("report").append(html("h2", {}, several ? "Runs" : "Summary"), summary(), ...results(), ...pictures(), ...setup().filter(Boolean));
})();
