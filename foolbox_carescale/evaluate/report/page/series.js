// How a series is drawn and named, and the tooltip that tells its numbers.
const color = (one) => {
  if (one.worst)
    return one.run ? `color-mix(in oklab, var(--ink) 40%, var(--other-${(one.run - 1) % 5}))` : "var(--ink)";
  const own = `var(--${one.palette}-${one.hue})`;
  return one.run
    ? `color-mix(in oklab, ${own} ${one.run % 2 ? 58 : 78}%, ${one.run % 2 ? "var(--ink)" : "var(--card)"})`
    : own;
};
const label = (one) => (several ? `${one.attack} · ${data.runs[one.run].name}` : one.attack);
const members = (one) => (one.worst ? JSON.parse(one.params) : []); // of a worst case, its attacks
const briefly = (one) =>
  members(one).length > 3 ? `over ${members(one).length} attacks` : `over ${members(one).join(", ")}`;
const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
  (r) => `M0,${-1.2 * r}L${1.2 * r},${r}L${-1.2 * r},${r}z`,
  (r) => `M0,${1.2 * r}L${1.2 * r},${-r}L${-1.2 * r},${-r}z`,
  (r) =>
    `M${-r / 2.5},${-r}h${r * 0.8}v${r * 0.6}h${r * 0.6}v${r * 0.8}h${-r * 0.6}v${r * 0.6}` +
    `h${-r * 0.8}v${-r * 0.6}h${-r * 0.6}v${-r * 0.8}h${r * 0.6}z`,
];
const alone = (one) => !one.minimum && one.points.length === 1; // a dot with its interval
const dot = (one, x, y, r = 4) =>
  path("dot", SHAPES[one.marker](r), { transform: `translate(${x},${y})`, style: `fill:${color(one)}` });
const stroke = (one) => ({
  style: `stroke:${color(one)}`,
  class: one.worst ? "curve halo" : "curve",
  "stroke-dasharray": DASHES[one.run % DASHES.length] || null,
});
const whiskerOf = (one) => ({ class: "whisker", style: `stroke:${color(one)}` });
const swatch = (one) =>
  svg(
    "svg",
    { viewBox: "0 0 34 14", class: "swatch", "aria-hidden": "true" },
    svg("path", { d: alone(one) ? "M17,1V13" : "M1,7H33", ...(alone(one) ? whiskerOf(one) : stroke(one)) }),
    one.worst && !alone(one) ? null : dot(one, 17, 7),
  );

const tip = document.getElementById("tip");
const showTip = (event, text) => {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = event.clientX + 16;
  const y = event.clientY + 14;
  tip.style.left = `${Math.max(4, x + width > innerWidth ? event.clientX - width - 12 : x)}px`;
  tip.style.top = `${Math.max(4, y + height > innerHeight ? event.clientY - height - 12 : y)}px`;
};
const hideTip = () => {
  tip.hidden = true;
};
