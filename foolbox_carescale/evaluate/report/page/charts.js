// Charts over epsilon, and their legend.
// attacks that are known at one epsilon stand beside each other
const shifts = (norm) => {
  const single = norm.series.filter(alone);
  const places = new Map();
  for (const one of single) {
    const same = single.filter((other) => other.points[0].e === one.points[0].e);
    const most = norm.ends[0] < norm.ends[1] ? 10 : 60;
    const step = Math.min(most, (W - LEFT - RIGHT - 40) / same.length);
    places.set(one, (same.indexOf(one) - (same.length - 1) / 2) * step);
  }
  return (one) => places.get(one) || 0;
};
let charts = 0;
const chart = (norm, log, H, ends, ticks, name, unit, draw, view = null) => {
  const x = scaleX(view ? view.x : norm.ends, log, view);
  const y = scaleY((view && view.y) || ends, H);
  const shift = shifts(norm);
  const picture = svg("svg", {
    viewBox: `0 0 ${W} ${H}`,
    role: "img",
    "aria-label": `${name} by epsilon, ${norm.name}; the table below has the numbers`,
  });
  for (const tick of view && view.y ? roundTicks(view.y) : ticks)
    picture.append(path("grid", `M${LEFT},${y(tick)}H${W - RIGHT}`), textAt(LEFT - 8, y(tick) + 4, short(tick), "end"));
  const middle = (TOP + H - BOTTOM) / 2;
  const seen = (e) => !view || (view.x[0] <= e && e <= view.x[1]);
  const marked = norm.epsilons.filter(seen);
  let last = -Infinity;
  for (const epsilon of marked.length > 1 || !view ? marked : view.x) {
    const place = x(epsilon);
    const crowded = place - last < 40;
    picture.append(path("axis", `M${place},${H - BOTTOM}v${crowded ? 3 : 5}`));
    if (crowded) continue;
    picture.append(textAt(place, H - BOTTOM + 19, short(epsilon)));
    last = place;
  }
  picture.append(
    path("axis", `M${LEFT},${H - BOTTOM}H${W - RIGHT}`),
    textAt((LEFT + W - RIGHT) / 2, H - 6, `epsilon (${norm.name})`),
    textAt(13, middle, unit, "middle", { transform: `rotate(-90 13 ${middle})` }),
  );
  const spots = [];
  const plot = svg("g");
  if (view) {
    const id = `clip-${charts++}`;
    const inside = { x: LEFT, y: TOP, width: W - LEFT - RIGHT, height: H - TOP - BOTTOM };
    picture.append(svg("clipPath", { id }, svg("rect", inside)));
    plot.setAttribute("clip-path", `url(#${id})`);
  }
  picture.append(plot);
  // halos lie below
  const drawn = norm.series.map((one, number) => [one, number]).sort(([a], [b]) => b.worst - a.worst);
  drawn.forEach(([one, number]) => {
    const group = svg("g", { class: "series", "data-series": number });
    const shifted = (e) => x(e) + shift(one);
    const spot = (point, place, text) => {
      if (seen(point.e)) spots.push({ number, group, x: shifted(point.e), y: place, text });
    };
    draw(group, one, shifted, y, spot);
    if (group.childNodes.length) plot.append(group);
  });
  const near = (event) => {
    const box = picture.getBoundingClientRect();
    const scale = W / box.width;
    const mx = (event.clientX - box.left) * scale;
    const my = (event.clientY - box.top) * scale;
    let best = null;
    let distance = 34;
    for (const spot of spots) {
      const d = Math.hypot(spot.x - mx, spot.y - my);
      if (d <= distance && !spot.group.classList.contains("off")) [best, distance] = [spot, d];
    }
    if (best) showTip(event, best.text);
    else hideTip();
  };
  picture.addEventListener("pointermove", near);
  picture.addEventListener("pointerdown", near);
  picture.addEventListener("pointerleave", hideTip);
  return { picture, plot, x, y };
};
const explain = (one, point) => {
  const lines = [
    label(one),
    `epsilon ${short(point.e)}`,
    point.attacked === 0
      ? "not attacked: the model is wrong about every sample"
      : `robust accuracy ${fixed(point.k / point.n)}, ` +
        `95%: ${fixed(point.low)} to ${fixed(point.high)} (${point.k} of ${point.n})`,
  ];
  if (one.worst) lines.push(`over ${members(one).join(", ")}`);
  const ratio = point.norm_over_epsilon;
  if (ratio) lines.push(`norm / epsilon: mean ${fixed(ratio.mean)}, min ${fixed(ratio.low)}, max ${fixed(ratio.high)}`);
  if (point.loss) lines.push(`cross-entropy: mean ${short(point.loss.mean)}`);
  if (point.backward_passes) lines.push(`gradient evaluations per sample: ${short(point.backward_passes.mean)}`);
  if (one.name) lines.push(`${one.name} ${one.params}`);
  return lines.join("\n");
};
const line = (points, x, height) =>
  points.map((p, i) => `${i ? "L" : "M"}${x(p.e).toFixed(1)},${height(p).toFixed(1)}`).join("");
const stairs = (steps, x, height) =>
  steps.map((s, i) => `${i ? `H${x(s.e).toFixed(1)}V` : `M${x(s.e).toFixed(1)},`}${height(s).toFixed(1)}`).join("");
// the same from the last step to the first
const stairsBack = (steps, x, height) =>
  [...steps]
    .reverse()
    .map((s) => `V${height(s).toFixed(1)}H${x(s.e).toFixed(1)}`)
    .join("");
const whisker = (one, x, low, high) => svg("path", { d: `M${x},${low}V${high}`, ...whiskerOf(one) });
const curves = (norm, log, view, onview) => {
  const H = narrow ? 340 : 400;
  const made = chart(
    norm,
    log,
    H,
    WHOLE,
    [0, 0.2, 0.4, 0.6, 0.8, 1],
    "robust accuracy",
    "robust accuracy",
    (group, one, x, y, spot) => {
      const found = one.minimum && one.minimum.steps;
      const up = found ? stairs(found, x, (p) => y(p.high)) : line(one.points, x, (p) => y(p.high));
      const down = found
        ? stairsBack(found, x, (p) => y(p.low))
        : line([...one.points].reverse(), x, (p) => y(p.low)).replace("M", "L");
      if (!one.worst && !alone(one)) group.append(path("band", `${up}${down}z`, { style: `fill:${color(one)}` }));
      if (alone(one)) group.append(whisker(one, x(one.points[0].e), y(one.points[0].low), y(one.points[0].high)));
      const drawn = found ? stairs(found, x, (p) => y(p.k / p.n)) : line(one.points, x, (p) => y(p.k / p.n));
      group.append(svg("path", { d: drawn, ...stroke(one) }));
      for (const step of found || []) spot(step, y(step.k / step.n), explain(one, step));
      for (const point of one.points) {
        if (!one.worst || alone(one)) group.append(dot(one, x(point.e), y(point.k / point.n), alone(one) ? 5 : 4));
        spot(point, y(point.k / point.n), explain(one, point));
      }
    },
    view,
  );
  data.runs.forEach((run, i) => {
    const place = made.y(run.clean.k / run.clean.n);
    if (place < TOP || place > H - BOTTOM) return;
    made.plot.append(
      path(
        "clean",
        `M${LEFT},${place}H${W - RIGHT}`,
        {},
        svg("title", {}, `clean accuracy of ${run.name}: ${fixed(run.clean.k / run.clean.n)}`),
      ),
    );
    const above = place - 5 > TOP + 8 ? place - 5 : place + 13;
    if (i === 0) made.picture.append(textAt(W - RIGHT - 4, above, "clean accuracy", "end", { class: "over" }));
  });
  if (norm.ends[0] < norm.ends[1]) zoomable(made.picture, norm, view, made.x, made.y, H, onview);
  return made.picture;
};
const normCurves = (norm, log) => {
  const ratios = norm.series.flatMap((one) =>
    one.minimum ? [] : one.points.map((p) => p.norm_over_epsilon).filter(Boolean),
  );
  const low = Math.min(0.9, ...ratios.map((r) => r.low));
  const high = Math.max(1.02, ...ratios.map((r) => r.high));
  const from = Math.floor(low * 10) / 10;
  const step = (high - from) / 5 > 0.1 ? 0.2 : 0.1;
  const ticks = [];
  for (let tick = from; tick <= high + 1e-9; tick += step) ticks.push(Number(tick.toFixed(2)));
  return chart(
    norm,
    log,
    260,
    [from - 0.005, high + 0.01],
    ticks,
    "measured norm / epsilon",
    "norm / epsilon",
    (group, one, x, y, spot) => {
      const known = one.minimum ? [] : one.points.filter((p) => p.norm_over_epsilon);
      if (!known.length) return;
      for (const p of known)
        group.append(whisker(one, x(p.e), y(p.norm_over_epsilon.low), y(p.norm_over_epsilon.high)));
      group.append(svg("path", { d: line(known, x, (p) => y(p.norm_over_epsilon.mean)), ...stroke(one) }));
      for (const p of known) {
        group.append(dot(one, x(p.e), y(p.norm_over_epsilon.mean)));
        spot(p, y(p.norm_over_epsilon.mean), explain(one, p));
      }
    },
  ).picture;
};
const legend = (panel, norm) => {
  const hidden = (state.get(`${norm.name}.hidden`) || "").split(".");
  const groups = (own = "") => panel.querySelectorAll(`g.series${own}`);
  const buttons = norm.series.map((one, number) =>
    button(
      [swatch(one), html("span", {}, label(one), one.worst ? html("small", {}, briefly(one)) : null)],
      (event) => {
        toggle(number, event.currentTarget.getAttribute("aria-pressed") !== "true");
        keep();
      },
      {
        "aria-pressed": String(!hidden.includes(String(number))),
        title: one.worst ? `over ${members(one).join(", ")}` : `${one.name} ${one.params}`,
        onpointerenter: () => groups().forEach((g) => g.classList.toggle("dim", g.dataset.series !== String(number))),
        onpointerleave: () => groups().forEach((g) => g.classList.remove("dim")),
      },
    ),
  );
  const toggle = (number, on) => {
    buttons[number].setAttribute("aria-pressed", String(on));
    groups(`[data-series="${number}"]`).forEach((g) => g.classList.toggle("off", !on));
  };
  const keep = () => {
    const off = buttons.flatMap((b, i) => (b.getAttribute("aria-pressed") === "true" ? [] : [i]));
    remember(`${norm.name}.hidden`, off.join("."));
  };
  const all = (on) =>
    button(on ? "show all" : "hide all", () => {
      buttons.forEach((_, i) => toggle(i, on));
      keep();
    });
  const restore = () => buttons.forEach((b, i) => toggle(i, b.getAttribute("aria-pressed") === "true"));
  return {
    element: html(
      "div",
      {},
      html("div", { class: "legend" }, buttons),
      buttons.length > 6 ? html("div", { class: "bar" }, all(true), all(false)) : null,
    ),
    restore,
  };
};
