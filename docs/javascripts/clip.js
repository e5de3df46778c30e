// The interactive figure of idea.md: a digit, a direction, and the norm before and after the clip.
"use strict";

(() => {
  const figure = document.getElementById("clip-figure");
  if (!figure) return;
  const sample = JSON.parse(document.getElementById("sample").textContent);
  const svg = (tag, attributes, parent) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (parent) parent.append(node);
    return node;
  };
  const get = (name) => figure.querySelector(`[data-${name}]`);
  const [slider, order, another] = [get("epsilon"), get("order"), get("another")];
  const x = sample.x;
  let v = sample.directions[0];
  let picked = 0;

  const norm = (values, p) =>
    p === Infinity
      ? Math.max(...values.map(Math.abs))
      : values.reduce((sum, c) => sum + Math.abs(c) ** p, 0) ** (1 / p);
  const room = () => x.map((xi, i) => (v[i] > 0 ? 1 - xi : v[i] < 0 ? xi : 0));
  const moved = (eta) => x.map((xi, i) => Math.min(Math.max(xi + eta * v[i], 0), 1) - xi);

  // Newton from 0 on a concave, piecewise linear function: see mathematics.md.
  function rescaling(eps, p) {
    const r = room();
    const live = r.map((_, i) => i).filter((i) => r[i] > 0);
    if (eps >= norm(r, p)) return Math.max(0, ...live.map((i) => r[i] / Math.abs(v[i])));
    if (p === Infinity) {
      return eps / Math.max(...live.filter((i) => r[i] >= eps).map((i) => Math.abs(v[i])));
    }
    let u = 0;
    for (;;) {
      let [left, slope] = [eps ** p, 0];
      for (const i of live) {
        if (r[i] ** p <= u * Math.abs(v[i]) ** p) left -= r[i] ** p;
        else slope += Math.abs(v[i]) ** p;
      }
      const next = slope > 0 ? left / slope : u;
      if (!(next > u)) return u ** (1 / p);
      u = next;
    }
  }

  // Three pictures of the digit, and the curve of norms.
  const picture = (host) => {
    const root = svg("svg", { viewBox: "0 0 80 80", role: "img" }, host);
    return x.map((_, i) =>
      svg("rect", { x: (i % 8) * 10, y: Math.floor(i / 8) * 10, width: 10.2, height: 10.2 }, root),
    );
  };
  const pictures = ["clean", "naive", "exact"].map((name) => picture(get(name)));
  const paint = (rects, values) =>
    rects.forEach((rect, i) => {
      const grey = Math.round(255 * (1 - values[i]));
      rect.setAttribute("fill", `rgb(${grey},${grey},${grey})`);
      const bound = values[i] <= 0 || values[i] >= 1;
      rect.classList.toggle("stuck", bound && rects !== pictures[0]);
    });

  const W = 420;
  const H = 240;
  const M = { left: 44, right: 12, top: 12, bottom: 36 };
  const plot = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" }, get("plot"));
  svg("title", {}, plot).textContent = "Norm after the clip against epsilon";
  const axes = svg("g", { class: "axes" }, plot);
  const exactCurve = svg("path", { class: "exact" }, plot);
  const naiveCurve = svg("path", { class: "naive" }, plot);
  const eaten = svg("line", { class: "eaten" }, plot);
  const exactDot = svg("circle", { class: "exact", r: 5 }, plot);
  const naiveDot = svg("circle", { class: "naive", r: 5 }, plot);
  const label = (text, attributes) => {
    svg("text", attributes, plot).textContent = text;
  };
  label("epsilon", { x: W - M.right, y: H - 4, "text-anchor": "end" });
  label("norm after the clip", { x: M.left + 6, y: M.top + 8 });

  function draw() {
    const p = order.value === "inf" ? Infinity : Number(order.value);
    const reach = norm(room(), p);
    const top = 1.05 * reach;
    const eps = (Number(slider.value) / 1000) * top;
    const naive = (e) => norm(moved(e / norm(v, p)), p);
    const exact = (e) => norm(moved(rescaling(e, p)), p);
    const px = (e) => M.left + (e / top) * (W - M.left - M.right);
    const py = (s) => H - M.bottom - (s / top) * (H - M.top - M.bottom);

    const grid = Array.from({ length: 101 }, (_, k) => (k / 100) * top);
    const path = (f) => "M" + grid.map((e) => `${px(e).toFixed(1)},${py(f(e)).toFixed(1)}`).join("L");
    naiveCurve.setAttribute("d", path(naive));
    exactCurve.setAttribute("d", path(exact));
    axes.replaceChildren();
    svg("path", { d: `M${px(0)},${M.top}V${py(0)}H${W - M.right}` }, axes);
    const step = 10 ** Math.floor(Math.log10(top));
    const tick = [step / 5, step / 2, step, 2 * step].find((t) => top / t <= 6) || 5 * step;
    for (let t = 0; t <= top; t += tick) {
      const text = String(Number(t.toFixed(3)));
      svg("text", { x: px(t), y: H - M.bottom + 15, "text-anchor": "middle" }, axes).textContent = text;
      svg("text", { x: M.left - 6, y: py(t) + 4, "text-anchor": "end" }, axes).textContent = text;
    }

    const norms = { naive: naive(eps), exact: exact(eps) };
    const place = (dot, size) => {
      dot.setAttribute("cx", px(eps));
      dot.setAttribute("cy", py(size));
    };
    place(naiveDot, norms.naive);
    place(exactDot, norms.exact);
    for (const [key, value] of Object.entries({
      x1: px(eps), x2: px(eps), y1: py(norms.naive), y2: py(norms.exact),
    })) eaten.setAttribute(key, value);

    const eta = rescaling(eps, p);
    const at = (scale) => moved(scale).map((s, i) => x[i] + s);
    paint(pictures[0], x);
    paint(pictures[1], at(eps / norm(v, p)));
    paint(pictures[2], at(eta));
    get("target").textContent = eps.toFixed(3);
    get("norm-naive").textContent = norms.naive.toFixed(3);
    get("norm-exact").textContent = norms.exact.toFixed(3);
    get("lost").textContent = eps > 0 ? `${Math.round(100 * (1 - norms.naive / eps))} %` : "0 %";
    get("reachable").textContent = reach.toFixed(3);
    get("eta").textContent = eta.toFixed(4);
    get("beyond").hidden = eps <= reach;
  }

  slider.addEventListener("input", draw);
  order.addEventListener("change", draw);
  another.addEventListener("click", () => {
    picked = (picked + 1) % sample.directions.length;
    v = sample.directions[picked];
    draw();
  });
  draw();
})();
