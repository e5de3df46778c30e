// The axes of a chart, and zooming into it by dragging or by keys.
const narrow = matchMedia("(max-width: 760px)").matches;
const W = narrow ? 440 : 760;
const LEFT = 52;
const RIGHT = 14;
const TOP = 14;
const BOTTOM = 46;
const scaleX = ([least, greatest], log, zoomed) => {
  const at = log ? Math.log : (value) => value;
  const single = least === greatest;
  const low = log || zoomed || single ? at(least) : 0;
  const high = at(greatest);
  const room = zoomed ? 0 : log || single ? 0.04 * (high - low) || 0.5 : 0.02 * high;
  const span = high - low + 2 * room;
  const x = (e) => LEFT + ((at(e) - low + room) / span) * (W - LEFT - RIGHT);
  x.invert = (place) => {
    const value = low - room + ((place - LEFT) / (W - LEFT - RIGHT)) * span;
    return log ? Math.exp(value) : value;
  };
  return x;
};
const scaleY = ([low, high], H) => {
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (H - TOP - BOTTOM);
  y.invert = (place) => low + (1 - (place - TOP) / (H - TOP - BOTTOM)) * (high - low);
  return y;
};
const roundTicks = ([low, high]) => {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push(Number((i * step).toPrecision(6)));
  return ticks;
};
const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);
const WHOLE = [-0.02, 1.02]; // of robust accuracy
// a view is what a chart shows: x of epsilon and y, null for the whole
const readView = (text) => {
  const [a, b, c, d] = (text || "").split("_").map(Number);
  if (!(0 < a && a < b && b < Infinity)) return null;
  return { x: [a, b], y: WHOLE[0] <= c && c < d && d <= WHOLE[1] ? [c, d] : null };
};
const viewText = (view) => view && [...view.x, ...(view.y || [])].join("_");
const rounded = (values) => values.map((value) => Number(value.toPrecision(4)));
const LEAST_DRAG = 8;
const LEAST_HEIGHT = 30; // below it, a drag is along epsilon only
const zoomable = (picture, norm, view, x, y, H, onview) => {
  const across = [LEFT, W - RIGHT];
  const down = [TOP, H - BOTTOM];
  const show = (left, right, rows) => {
    const columns = rounded([Math.max(x.invert(left), norm.ends[0] / 10), x.invert(right)]);
    if (columns[1] > columns[0] * 1.001) onview({ x: columns, y: rows && rounded(rows.map((v) => clamp(v, WHOLE))) });
  };
  const place = (event) => {
    const box = picture.getBoundingClientRect();
    const scale = W / box.width;
    return [clamp((event.clientX - box.left) * scale, across), clamp((event.clientY - box.top) * scale, down)];
  };
  let start = null;
  let frame = null;
  const drop = () => {
    if (frame) frame.remove();
    start = frame = null;
  };
  const corners = (event) => {
    const [px, py] = place(event);
    const tall = Math.abs(py - start[1]) > LEAST_HEIGHT;
    const rising = (a, b) => [Math.min(a, b), Math.max(a, b)];
    return { columns: rising(px, start[0]), rows: tall ? rising(py, start[1]) : null };
  };
  picture.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch" && event.button === 0) start = place(event); // a finger scrolls
  });
  picture.addEventListener("pointermove", (event) => {
    if (!start) return;
    const { columns, rows } = corners(event);
    if (!frame && columns[1] - columns[0] < LEAST_DRAG) return;
    if (!frame) {
      frame = picture.appendChild(svg("rect", { class: "frame" }));
      picture.setPointerCapture(event.pointerId);
    }
    const [top, bottom] = rows || down;
    const sizes = { x: columns[0], y: top, width: columns[1] - columns[0], height: bottom - top };
    for (const [name, value] of Object.entries(sizes)) frame.setAttribute(name, value);
    hideTip();
  });
  picture.addEventListener("pointerup", (event) => {
    if (frame) {
      const { columns, rows } = corners(event);
      show(...columns, rows ? [y.invert(rows[1]), y.invert(rows[0])] : view && view.y);
    }
    drop();
  });
  picture.addEventListener("pointercancel", drop);
  picture.addEventListener("dblclick", () => onview(null));
  const wide = W - RIGHT - LEFT;
  const keys = {
    "+": () => show(LEFT + wide / 4, W - RIGHT - wide / 4, view && view.y),
    "-": () => view && show(LEFT - wide / 2, W - RIGHT + wide / 2, view.y),
    ArrowLeft: () => view && show(LEFT - wide / 4, W - RIGHT - wide / 4, view.y),
    ArrowRight: () => view && show(LEFT + wide / 4, W - RIGHT + wide / 4, view.y),
    Escape: () => onview(null),
  };
  picture.addEventListener("keydown", (event) => {
    const key = keys[event.key === "=" ? "+" : event.key];
    if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    key();
  });
  picture.setAttribute("tabindex", "0");
  picture.setAttribute("aria-keyshortcuts", "+ - ArrowLeft ArrowRight Escape");
  picture.classList.add("zoomable");
};
