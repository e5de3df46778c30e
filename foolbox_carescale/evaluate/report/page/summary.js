// The first screen: clean accuracy, and robust accuracy at the headline epsilons.
const tile = (value, text, more) =>
  html("div", { class: "tile" }, html("b", {}, value), html("span", {}, text), more ? html("span", {}, more) : null);
const headlineTile = (norm, outcome) =>
  tile(
    outcome.attacked ? fixed(outcome.k / outcome.n) : "not attacked",
    `robust at ${norm.name} ${short(outcome.e)}, ${outcome.attack}`,
    outcome.attacked ? `95%: ${fixed(outcome.low)} to ${fixed(outcome.high)}` : "no sample is correctly classified",
  );
const shownAt = (norm) => {
  const asked = norm.outcomes.find((one) => String(one.e) === state.get(`${norm.name}.headline`));
  return asked ? [asked.e] : norm.headline;
};
const headlineTiles = (number) =>
  data.norms.flatMap((norm) =>
    norm.outcomes
      .filter((one) => shownAt(norm).includes(one.e) && one.runs[number])
      .map((one) => headlineTile(norm, one.runs[number])),
  );
const headlineChoice = (norm, redraw) => {
  const together = norm.headline.length > 1 ? [["", norm.headline.map(short).join(", ")]] : [];
  const options = [...together, ...norm.outcomes.map((one) => [String(one.e), short(one.e)])];
  const shown = shownAt(norm);
  const chosen = shown.length > 1 ? "" : String(shown[0]);
  return choice(
    `${norm.name}:`,
    options,
    (value) => {
      remember(`${norm.name}.headline`, value);
      redraw();
    },
    chosen,
  );
};
const summary = () => {
  const holes = data.runs.map(() => html("div", { class: "tiles" }));
  const redraw = () =>
    data.runs.forEach((run, number) =>
      holes[number].replaceChildren(
        tile(
          fixed(run.clean.k / run.clean.n),
          "clean accuracy",
          `95%: ${fixed(run.clean.low)} to ${fixed(run.clean.high)}, ${run.clean.n} samples`,
        ),
        ...headlineTiles(number),
      ),
    );
  redraw();
  const choices = data.norms.filter((norm) => norm.outcomes.length > 1).map((norm) => headlineChoice(norm, redraw));
  return html(
    "div",
    { class: several ? "runs" : null },
    choices.length ? html("div", { class: "bar headline" }, html("span", {}, "Headline epsilon"), choices) : null,
    data.runs.map((run, number) =>
      card(
        `${run.model} on ${run.data}`,
        null,
        html("p", { class: "soft" }, run.name, run.made ? html("br") : null, run.made),
        holes[number],
        run.diagnostics.length
          ? run.diagnostics.map((d) =>
              html("div", { class: "diagnostic" }, html("b", {}, d.message), d.remedy ? ` — ${d.remedy}.` : ""),
            )
          : html(
              "p",
              { class: "fine" },
              "✓ no warning: clean accuracy, number of samples, logits, gradients, repeated and smaller batches, " +
                "bounds, reach of epsilon, order of attacks and rounding were checked",
            ),
      ),
    ),
    noteOf(
      "The headline epsilons are those of report.epsilons in the config, or else the largest that at least half of " +
        "the samples withstand, or the smallest. All epsilons are below.",
    ),
  );
};
