// The browser of clean and perturbed images.
const pictures = () => {
  const runs = data.pictures.runs.filter((run) => run.samples.length);
  if (!runs.length) return [];
  const hole = html("div", { class: "gallery" });
  const thumbs = html("div", { class: "thumbs" });
  const image = (source, alt) => html("img", { src: source, alt, class: data.pictures.shown <= 64 ? "pixels" : null });
  const show = (sample, pressed) => {
    for (const thumb of thumbs.children) thumb.classList.toggle("pressed", thumb === pressed);
    hole.replaceChildren(
      ...sample.attacks.map((a) => {
        const fooled = a.prediction !== sample.label;
        return html(
          "figure",
          {},
          html(
            "figcaption",
            {},
            html("b", {}, a.attack),
            `${a.norm} ${short(a.epsilon)}: class ${sample.label} → `,
            html(
              "span",
              { class: fooled ? "fooled" : null },
              fooled ? `${a.prediction}` : `${a.prediction} (not fooled)`,
            ),
          ),
          html(
            "div",
            { class: "trio" },
            html("span", {}, image(sample.clean, `clean, class ${sample.label}`), "clean"),
            html("span", {}, image(a.adversarial, `after ${a.attack}, class ${a.prediction}`), "adversarial"),
            html(
              "span",
              {},
              image(a.difference, "difference, scaled to its largest change"),
              `difference ×${short(Number((0.5 / Math.max(a.largest, 1e-12)).toPrecision(2)))}`,
            ),
          ),
        );
      }),
    );
  };
  for (const run of runs)
    for (const sample of run.samples)
      thumbs.append(
        button(
          [
            image(sample.clean, `class ${sample.label}`),
            several ? `${run.name}: ${sample.label}` : `class ${sample.label}`,
          ],
          (e) => show(sample, e.currentTarget),
        ),
      );
  show(runs[0].samples[0], thumbs.firstChild);
  const reduced =
    data.pictures.shown < data.pictures.side ? ` Shown at ${data.pictures.shown} of ${data.pictures.side} pixels.` : "";
  return [
    html("h2", {}, "Images"),
    card(
      null,
      "The first attacked samples, at the middle epsilon of each attack. " +
        `Differences are shown on grey, scaled to their largest change.${reduced}`,
      thumbs,
      hole,
    ),
  ];
};
