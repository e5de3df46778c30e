// A panel per norm, behind tabs.
const choice = (text, options, onchange, chosen) =>
  html(
    "label",
    {},
    text,
    html(
      "select",
      { onchange: (e) => onchange(e.currentTarget.value) },
      options.map(([value, name]) => html("option", { value, selected: value === chosen }, name)),
    ),
  );
const panelOf = (norm, id) => {
  const panel = html("div", { role: "tabpanel", id, "aria-label": norm.name });
  const holes = {};
  for (const name of ["curves", "norms", "histograms", "costs", "classes"]) holes[name] = html("div");
  const key = legend(panel, norm);
  const ranges = norm.ends[0] < norm.ends[1];
  const own = (name) => `${norm.name}.${name}`;
  let log = state.has(own("log")) ? state.get(own("log")) === "1" : norm.ends[1] / norm.ends[0] > 4;
  let quantity = "loss";
  const counts = norm.epsilons.map((e) =>
    sum(norm.series.map((one) => (one.worst ? 0 : one.points.filter((p) => p.e === e).length))),
  );
  const most = norm.epsilons.filter((e, i) => counts[i] === Math.max(...counts));
  const asked = norm.epsilons.find((e) => String(e) === state.get(own("epsilon")));
  let epsilon = asked || most[Math.floor((most.length - 1) / 2)];
  let view = ranges ? readView(state.get(own("view"))) : null;
  const whole = button("reset zoom", () => zoomTo(null), { hidden: view === null });
  const zoomTo = (next) => {
    const focused = holes.curves.contains(document.activeElement);
    view = next;
    whole.hidden = view === null;
    remember(own("view"), viewText(view));
    drawCurves();
    if (focused) holes.curves.firstChild.focus();
  };
  const drawCurves = () => {
    holes.curves.replaceChildren(curves(norm, log, view, zoomTo));
    holes.norms.replaceChildren(normCurves(norm, log));
    key.restore();
  };
  const drawOne = () => {
    holes.histograms.replaceChildren(histograms(norm, quantity, epsilon));
    holes.costs.replaceChildren(costTable(norm, epsilon));
    holes.classes.replaceChildren(classes(norm, epsilon));
  };
  const otherScale = () => (log ? "linear epsilon" : "logarithmic epsilon");
  const scale = button(otherScale(), (e) => {
    log = !log;
    remember(own("log"), log ? "1" : "0");
    e.currentTarget.textContent = otherScale();
    drawCurves();
  });
  const known = Object.entries(QUANTITIES).filter(([name]) => norm.edges[name].some(Boolean));
  panel.append(
    card(
      html("div", { class: "bar" }, html("h3", {}, "Security curves"), ranges ? [whole, scale] : null),
      "Share of all samples that are correctly classified both without and with the attack, with Wilson’s 95% interval. " +
        (norm.series.some((one) => one.worst)
          ? "“worst case over attacks” counts a sample as robust only if it withstands every attack at this epsilon and below. "
          : "") +
        (norm.series.some((one) => one.minimum)
          ? "An attack that looks for the smallest perturbation has a step at every norm that it found."
          : ""),
      html(
        "p",
        { class: "note click" },
        "Click a name to hide it.",
        ranges
          ? html(
              "span",
              { class: "mouse" },
              " Drag over the curves to zoom; a double click shows all again. Keys: + − ← → Esc.",
            )
          : null,
      ),
      html("div", { class: "plot" }, holes.curves, key.element),
      saveFigure(() => holes.curves.querySelector("svg"), `robust accuracy ${norm.name}`),
    ),
    card(
      "Robust accuracy",
      "By epsilon, with the 95% interval below each number.",
      html("p", { class: "note click" }, "Click a column to sort."),
      accuracyTable(norm),
    ),
    minimumTable(norm) || "",
    differenceTable(norm) || "",
    card(
      "Measured norm / epsilon",
      "The share of epsilon left after the clip: mean, with whiskers from the least to the greatest. " +
        "Below 1, the curve above belongs to a smaller epsilon than its axis shows. Attacks that look for the " +
        "smallest perturbation do not aim at epsilon and are left out.",
      html("div", { class: "plot" }, holes.norms),
      saveFigure(() => holes.norms.querySelector("svg"), `norm over epsilon ${norm.name}`),
      normTable(norm),
    ),
    card(
      html(
        "div",
        { class: "bar" },
        html("h3", {}, "Distributions over the attacked samples"),
        choice(
          "of",
          known,
          (value) => {
            quantity = value;
            drawOne();
          },
          quantity,
        ),
        choice(
          "at epsilon",
          norm.epsilons.map((e) => [String(e), short(e)]),
          (value) => {
            epsilon = norm.epsilons.find((e) => String(e) === value);
            remember(own("epsilon"), value);
            drawOne();
          },
          String(epsilon),
        ),
      ),
      null,
      holes.histograms,
      html("p", {}),
      holes.costs,
    ),
    card(
      "Robust accuracy by class",
      "At the epsilon chosen above. Few samples per class are not conclusive.",
      holes.classes,
    ),
  );
  drawCurves();
  drawOne();
  return panel;
};
const results = () => {
  const panels = data.norms.map((norm, i) => panelOf(norm, `norm-${i}`));
  const tabs = data.norms.map((norm, i) =>
    button(norm.name, () => select(i), {
      role: "tab",
      "aria-controls": `norm-${i}`,
      onkeydown: (e) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
        if (!step) return;
        const next = (i + step + tabs.length) % tabs.length;
        select(next);
        tabs[next].focus();
      },
    }),
  );
  const select = (chosen, shown = true) => {
    if (shown) remember("norm", data.norms[chosen].name);
    panels.forEach((panel, i) => {
      panel.hidden = i !== chosen;
      tabs[i].setAttribute("aria-selected", String(i === chosen));
      tabs[i].tabIndex = i === chosen ? 0 : -1;
    });
  };
  const named = data.norms.findIndex((norm) => norm.name === state.get("norm"));
  select(Math.max(named, 0), false);
  return [html("h2", {}, "Results by norm"), html("div", { role: "tablist", "aria-label": "norm" }, tabs), ...panels];
};
