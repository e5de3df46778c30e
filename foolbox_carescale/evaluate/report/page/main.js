// Puts the page together.
const tile = (value, text, more) =>
  html("div", { class: "tile" }, html("b", {}, value), html("span", {}, text), more ? html("span", {}, more) : null);
const summary = () =>
  html(
    "div",
    { class: several ? "runs" : null },
    data.runs.map((run, number) => {
      const tiles = [
        tile(
          fixed(run.clean.k / run.clean.n),
          "clean accuracy",
          `95%: ${fixed(run.clean.low)} to ${fixed(run.clean.high)}, ${run.clean.n} samples`,
        ),
      ];
      for (const norm of data.norms) {
        // where attacks still differ: the largest epsilon with a robust accuracy of at least a half
        const own = norm.series.filter((one) => one.run === number);
        const worst = own.find((one) => one.worst) || own[0];
        if (!worst) continue;
        const p = [...worst.points].reverse().find((q) => q.k / q.n >= 0.5) || worst.points[0];
        tiles.push(
          tile(
            fixed(p.k / p.n),
            `robust at ${norm.name} ${short(p.e)}, ${worst.worst ? "worst case over attacks" : worst.attack}`,
            `95%: ${fixed(p.low)} to ${fixed(p.high)}`,
          ),
        );
      }
      return card(
        `${run.model} on ${run.data}`,
        null,
        html("p", { class: "soft" }, run.name, run.made ? html("br") : null, run.made),
        html("div", { class: "tiles" }, tiles),
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
      );
    }),
    noteOf(
      "Each norm is shown at the largest epsilon that at least half of the samples withstand, or at its smallest. " +
        "All epsilons are below.",
    ),
  );
const setup = () => [
  html("h2", {}, "Setup"),
  data.config.length
    ? card(
        "Differences between the configs",
        null,
        table(
          ["key", ...data.runs.map((run) => run.name)],
          data.config.map(([name, values]) => [
            { node: name, value: name },
            ...values.map((v) => ({ node: v, value: v, class: "left" })),
          ]),
        ),
      )
    : null,
  ...data.runs.map((run) =>
    card(
      null,
      null,
      html(
        "details",
        { open: !several },
        html("summary", {}, several ? `Config of ${run.name}` : "Config"),
        noteOf(run.versions),
        html("pre", {}, run.config),
      ),
    ),
  ),
];

document.title = `Robustness of ${data.title}`;
document.getElementById("top").append(html("h1", {}, "Robustness report"), html("p", { class: "soft" }, data.title));
document
  .getElementById("report")
  .append(
    html("h2", {}, several ? "Runs" : "Summary"),
    summary(),
    ...results(),
    ...pictures(),
    ...setup().filter(Boolean),
  );
