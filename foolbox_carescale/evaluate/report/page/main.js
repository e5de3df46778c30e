// Puts the page together.
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
