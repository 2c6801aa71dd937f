// A chart that answers: values under the pointer or a cursor of the keyboard, lines hidden and shown by the legend, a closer look at
// a stretch. It draws as chart.rs does, and nothing before somebody asks for it. All text is put in as text, never as markup.
const node = (parent, name, attributes, text) => {
  const svg = parent.namespaceURI.endsWith("svg");
  const made = svg ? document.createElementNS(parent.namespaceURI, name) : document.createElement(name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
};
const one = number => number.toFixed(1);
const colour = series => `var(--s${series.hue})`;

class Plot {
  constructor(script, index) {
    this.data = read(script);
    this.figure = script.closest("figure");
    this.box = this.figure.querySelector(".plot");
    this.svg = this.box.querySelector("svg");
    this.key = this.figure.id || String(index);
    this.drawn = "";
    this.known = {};
    this.smooth = new Map();
    this.chosen = -1;
    const { frame: [left, right, top, bottom], axes, series } = this.data;
    Object.assign(this, { left, right, top, bottom });
    [this.x, this.y] = axes.map(([low, high, log]) => ({ low, high, log }));
    for (const of of series) of.points = of.ys.map((y, i) => [of.xs ? of.xs[i] : of.from + i, y]);
    this.svg.querySelector("title").remove();
    this.svg.setAttribute("tabindex", "0");
    this.svg.setAttribute("role", "application");
    this.svg.setAttribute("aria-label", this.svg.getAttribute("aria-label") + ". Arrow keys move a cursor along the values.");
    this.over = node(this.svg, "g", { class: "over" });
    this.tip = node(this.box, "div", { class: "tip", hidden: "" });
    this.reset = node(this.box, "button", { type: "button", class: "reset", hidden: "" }, "Whole range");
    this.buttons = [...this.figure.querySelectorAll(".legend button")];
    this.listen();
  }

  get steps() { return this.data.xUnit === "steps"; }
  get unit() { return this.steps ? state.axis : this.data.xUnit; }
  get window() { return state.windows[this.key]; }
  shown(series) { return !state.hidden.has(this.data.entries[series.entry]); }

  // The values of every series that shows, over the axis that was chosen.
  lines() {
    return this.data.series.filter(series => this.shown(series)).map(series => {
      series.over ??= { [this.data.xUnit]: series.points };
      series.over[this.unit] ??= series.points.map(([x, y]) => [converted(series.runs, x), y]).filter(([x]) => finite(x));
      return { series, points: series.over[this.unit] };
    });
  }

  draw() {
    this.buttons.forEach(button => {
      button.setAttribute("aria-pressed", String(!state.hidden.has(this.data.entries[button.dataset.e])));
    });
    if (this.data.scatter) {
      this.known = {};
      this.data.series.forEach((series, index) => this.svg.querySelector(`[data-s="${index}"]`).toggleAttribute("hidden", !this.shown(series)));
      this.svg.querySelectorAll("[data-e]").forEach(of => of.toggleAttribute("hidden", state.hidden.has(this.data.entries[of.dataset.e])));
      return;
    }
    const smoothing = this.data.smooth && state.smoothing > 0;
    const wanted = JSON.stringify([this.unit, this.window, this.data.entries.map(name => state.hidden.has(name)), smoothing && state.smoothing]);
    const asDrawn = JSON.stringify([this.data.xUnit, undefined, this.data.entries.map(() => false), false]);
    if (wanted === (this.drawn || asDrawn)) return;
    this.drawn = wanted;
    this.known = {};
    this.smooth = new Map();
    this.hide();
    const lines = this.lines();
    const known = lines.flatMap(({ points }) => points.filter(([, y]) => finite(y)));
    if (!known.length) {
      this.svg.querySelectorAll(".axes,.lines,.names").forEach(group => group.replaceChildren());
      return;
    }
    this.x = this.window ? { low: this.window[0], high: this.window[1], log: false } : linear(known.map(([x]) => x), false);
    for (const line of lines) {
      line.smooth = smoothing && line.series.line && line.points.length >= 10 ? smoothed(line.points) : null;
      if (line.smooth) this.smooth.set(line.series, new Map(line.smooth));
      if (this.window) for (const part of ["points", "smooth"]) line[part] = line[part] && this.cut(line[part]);
    }
    const heights = lines.flatMap(({ points }) => points.map(([, y]) => y)).filter(finite);
    this.y = fitting([...heights, ...this.data.guides.map(([y]) => y)], this.data.fromZero);
    const labels = ticks(this.y, this.data.unit).map(tick => [tick, write[this.data.unit](tick)]);
    this.left = Math.max(0, ...labels.map(([, text]) => [...text].length)) * CHARACTER + 12;
    this.drawAxes(labels);
    this.drawLines(lines);
    if (this.data.ends) this.drawEnds(lines);
    this.reset.hidden = !this.window;
  }

  // What lies in the window, and the neighbours at both sides.
  cut(points) {
    const [low, high] = this.window;
    const first = points.findIndex(([x]) => x >= low), last = points.findLastIndex(([x]) => x <= high);
    return first < 0 || last < 0 ? [] : points.slice(Math.max(first - 1, 0), last + 2);
  }

  atX(x) { return this.left + (this.right - this.left) * place(this.x, x); }
  atY(y) { return this.bottom - (this.bottom - this.top) * place(this.y, y); }

  drawAxes(labels) {
    const { left, right, top, bottom, data } = this, group = this.svg.querySelector(".axes");
    group.replaceChildren();
    for (const [tick, text] of labels) {
      const at = this.atY(tick);
      node(group, "path", { class: "grid", d: `M${one(left)} ${one(at)}H${one(right)}` });
      node(group, "text", { class: "soft", "text-anchor": "end", x: one(left - 6), y: one(at + 4.5) }, text);
    }
    node(group, "path", { class: "axis", d: `M${one(left)} ${one(bottom)}H${one(right)}` });
    let free = 0;
    for (const tick of ticks(this.x, this.unit)) {
      const at = this.atX(tick), text = write[this.unit](tick), half = 0.5 * CHARACTER * [...text].length;
      node(group, "path", { class: "axis", d: `M${one(at)} ${one(bottom)}v4` });
      if (at - half < free || at + half > WIDTH) continue;
      free = at + half + 12;
      node(group, "text", { class: "soft", "text-anchor": "middle", x: one(at), y: one(bottom + 17) }, text);
    }
    const name = this.steps ? AXES[state.axis][0] : data.x, scale = axis => axis.log ? " (logarithmic)" : "";
    node(group, "text", { "text-anchor": "middle", x: one(0.5 * (left + right)), y: one(bottom + 35) }, name + scale(this.x));
    node(group, "text", { x: "2", y: "14" }, data.y + scale(this.y));
    for (const [guide, label] of data.guides) {
      const at = this.atY(guide);
      node(group, "path", { class: "guide", d: `M${one(left)} ${one(at)}H${one(right)}` });
      node(group, "text", { class: "halo", x: one(left + 4), y: one(at < top + 16 ? at + 14 : at - 4) }, label);
    }
  }

  drawLines(lines) {
    const group = this.svg.querySelector(".lines");
    group.replaceChildren();
    // A line to a neighbour beyond the window ends at its edge.
    const id = "within-" + plots.indexOf(this), { left, right, top, bottom } = this;
    if (this.window) {
      const within = node(node(group, "clipPath", { id }), "rect", {});
      for (const [key, at] of Object.entries({ x: left - 4, y: top - 8, width: right - left + 8, height: bottom - top + 12 })) within.setAttribute(key, at);
    }
    const faint = line => line.series.weight === "seed";
    for (const line of [...lines].sort((a, b) => faint(b) - faint(a))) {
      const { series } = line, index = this.data.series.indexOf(series);
      const of = node(group, "g", { "data-s": index });
      if (faint(line)) of.setAttribute("opacity", ".5");
      if (this.window) of.setAttribute("clip-path", `url(#${id})`);
      if (line.smooth) this.drawLine(of, series, line.points, true);
      this.drawLine(of, series, line.smooth || line.points, false);
    }
  }

  drawLine(group, series, points, faint) {
    const at = thinned(points).map(([x, y]) => finite(y) ? [this.atX(x), this.atY(y)] : null), known = at.filter(Boolean);
    if (series.line) {
      let path = "", down = false;
      for (const point of at) {
        if (point) path += `${down ? "L" : "M"}${one(point[0])} ${one(point[1])}`;
        down = Boolean(point);
      }
      const width = { plain: 2, seed: 1, mean: 3 }[series.weight];
      const line = node(group, "path", { d: path, fill: "none", stroke: colour(series), "stroke-width": width, "stroke-linejoin": "round" });
      if (series.dashes) line.setAttribute("stroke-dasharray", series.dashes);
      if (faint) line.setAttribute("opacity", ".3");
    }
    const every = series.line ? Math.max(Math.ceil(known.length / 5), 1) : 1;
    if (faint || series.weight === "seed" && known.length > 1) return;
    const marks = known.reverse().filter((_, index) => index % every === 0).map(([x, y]) => `M${one(x)} ${one(y)}${MARKERS[series.hue]}`);
    if (marks.length) node(group, "path", { d: marks.join(""), fill: "var(--paper)", stroke: colour(series), "stroke-width": "1.6" });
  }

  // Names beside the ends of their lines, moved apart.
  drawEnds(lines) {
    const group = this.svg.querySelector(".names");
    group.replaceChildren();
    const labels = [];
    this.data.entries.forEach((name, entry) => {
      const own = lines.filter(({ series }) => series.entry === entry);
      own.sort((a, b) => (a.series.weight === "seed") - (b.series.weight === "seed"));
      for (const { series, points, smooth } of own) {
        const end = (smooth || points).findLast(([x, y]) => finite(y) && x <= this.x.high);
        if (!end) continue;
        const y = Math.min(Math.max(this.atY(end[1]), this.top), this.bottom);
        labels.push({ name, series, x: this.atX(end[0]), y, at: y });
        break;
      }
    });
    labels.sort((a, b) => a.y - b.y);
    let least = this.top, most = this.bottom + 4;
    for (const label of labels) least = (label.at = Math.max(label.at, least)) + 15;
    for (const label of labels.reverse()) most = (label.at = Math.min(label.at, most)) - 15;
    for (const { name, series, x, y, at } of labels.reverse()) {
      const start = this.right + 14;
      node(group, "path", { d: `M${one(x + 4)} ${one(y)}L${one(start - 3)} ${one(at)}`, stroke: colour(series), "stroke-width": ".8", opacity: ".6" });
      node(group, "text", { class: "halo", style: `fill:${colour(series)}`, x: one(start), y: one(at + 4.5) }, name);
    }
  }

  listen() {
    const at = event => {
      const box = this.svg.getBoundingClientRect(), scale = WIDTH / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    };
    const inside = ([x, y]) => x > this.left - 8 && x < this.right + 8 && y > this.top - 20 && y < this.bottom + 30;
    let from = null;
    this.svg.addEventListener("pointerdown", event => {
      if (event.button === 0 && event.pointerType === "mouse" && !this.data.scatter && inside(at(event))) {
        from = at(event)[0];
        this.svg.setPointerCapture(event.pointerId);
      }
    });
    this.svg.addEventListener("pointermove", event => {
      const [x, y] = at(event);
      if (from !== null && Math.abs(x - from) > 4) return this.select(from, x);
      if (inside([x, y])) this.point(x, y); else this.hide();
    });
    this.svg.addEventListener("pointerup", event => {
      const x = at(event)[0], start = from;
      from = null;
      if (start !== null && Math.abs(x - start) > 4) this.zoom(this.valueAt(Math.min(start, x)), this.valueAt(Math.max(start, x)));
    });
    this.svg.addEventListener("pointerdown", event => event.pointerType !== "mouse" && this.point(...at(event)));
    this.svg.addEventListener("pointercancel", () => { from = null; this.hide(); });
    this.svg.addEventListener("pointerleave", () => from === null && this.hide());
    this.svg.addEventListener("blur", () => this.hide());
    this.svg.addEventListener("dblclick", () => this.whole());
    this.reset.addEventListener("click", () => this.whole());
    this.svg.addEventListener("keydown", event => this.press(event));
    this.buttons.forEach(button => {
      button.disabled = false;
      button.title = "Hide or show; with a double click or the Shift key this one alone";
      const name = this.data.entries[button.dataset.e];
      const alone = () => {
        const others = this.data.entries.filter(other => other !== name);
        const isAlone = !state.hidden.has(name) && others.every(other => state.hidden.has(other));
        this.data.entries.forEach(other => state.hidden[other === name || isAlone ? "delete" : "add"](other));
        changed();
      };
      button.addEventListener("click", event => {
        if (event.shiftKey) return alone();
        if (!state.hidden.delete(name)) state.hidden.add(name);
        changed();
      });
      button.addEventListener("dblclick", event => event.shiftKey || alone());
    });
  }

  valueAt(x) { return value(this.x, Math.min(Math.max((x - this.left) / (this.right - this.left), 0), 1)); }

  zoom(low, high) {
    if (!(high > low)) return;
    state.windows[this.key] = [low, high];
    changed();
  }

  whole() {
    delete state.windows[this.key];
    changed();
  }

  select(from, to) {
    this.hide();
    const [low, high] = [from, to].map(x => Math.min(Math.max(x, this.left), this.right)).sort((a, b) => a - b);
    node(this.over, "rect", { class: "selection", x: low, y: this.top, width: high - low, height: this.bottom - this.top });
  }

  hide() {
    this.over.replaceChildren();
    this.tip.hidden = true;
    this.cursor = null;
  }

  // Places that a cursor can take, from left to right: those of all lines, or of the one that was chosen.
  places() {
    if (this.known[this.chosen]) return this.known[this.chosen];
    const lines = this.data.scatter ? this.data.series.filter(series => this.shown(series)).map(series => ({ series, points: series.points })) : this.lines();
    const chosen = lines.filter(({ series }) => this.chosen < 0 || series.entry === this.chosen);
    const low = this.x.low, high = this.x.high, all = [];
    for (const { points } of chosen.length ? chosen : lines)
      for (const [x, y] of points) if (finite(y) && x >= low - 1e-9 && x <= high + 1e-9) all.push(x);
    return this.known[this.chosen] = [...new Set(all)].sort((a, b) => a - b);
  }

  point(x, y) {
    if (this.data.scatter) return this.pointNear(x, y);
    const places = this.places(), wanted = this.valueAt(x);
    if (!places.length) return this.hide();
    this.show(places.reduce((best, at) => Math.abs(at - wanted) < Math.abs(best - wanted) ? at : best));
  }

  pointNear(x, y) {
    let best = null, least = 30;
    for (const series of this.data.series.filter(series => this.shown(series)))
      for (const [px, py] of series.points) {
        const far = Math.hypot(this.atX(px) - x, this.atY(py) - y);
        if (far < least) [best, least] = [[series, px, py], far];
      }
    if (best) this.showPoint(...best); else this.hide();
  }

  showPoint(series, x, y) {
    this.hide();
    this.cursor = x;
    const spread = (series.spreads || []).find(([px, py]) => px === x && py === y);
    const half = ends => ends ? (ends[1] - ends[0]) / 2 : 0;
    const told = (name, unit, value, ends) => [name, write[unit](value) + (half(ends) ? " ± " + write[unit](half(ends)) : "")];
    const { data } = this;
    node(this.over, "circle", { cx: one(this.atX(x)), cy: one(this.atY(y)), r: 7, class: "dot", style: "fill:none", stroke: colour(series) });
    const rows = [told(data.y, data.unit, y, spread && spread[3]), told(data.x, data.xUnit, x, spread && spread[2])];
    return this.tell(series.name, rows.map(([name, text]) => ({ name, text })), this.atX(x), this.atY(y));
  }

  // A line across at x, and what every line is there.
  show(x) {
    this.hide();
    this.cursor = x;
    const at = this.atX(x), unit = this.unit, entries = new Map();
    node(this.over, "path", { class: "cursor", d: `M${one(at)} ${this.top}V${this.bottom}` });
    const near = unit === "steps" ? 0 : 4 * (this.x.high - this.x.low) / (this.right - this.left);
    for (const { series, points } of this.lines()) {
      const reach = Math.max(unit === "steps" || !this.steps ? (series.every || 0.5) : 0, near);
      let best = null;
      for (const point of points) if (finite(point[1]) && Math.abs(point[0] - x) <= reach && (!best || Math.abs(point[0] - x) < Math.abs(best[0] - x))) best = point;
      if (!best) continue;
      const row = entries.get(series.entry) || { series, values: [], mean: null };
      if (series.weight === "mean") [row.mean, row.series] = [best[1], series]; else row.values.push(best[1]);
      if (series.weight !== "seed" && this.smooth.has(series)) row.smooth = this.smooth.get(series).get(best[0]);
      entries.set(series.entry, row);
      node(this.over, "circle", { cx: one(this.atX(best[0])), cy: one(this.atY(best[1])), r: series.weight === "seed" ? 2 : 3.5, class: "dot", stroke: colour(series) });
    }
    const write1 = write[this.data.unit];
    const rows = [...entries].map(([entry, { series, values, mean, smooth }]) => {
      const count = values.length, middle = count ? values.reduce((a, b) => a + b, 0) / count : mean;
      const spread = count > 1 ? Math.sqrt(values.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (count - 1)) : 0;
      const each = count > 1 ? ` ± ${write1(spread)} (${values.sort((a, b) => b - a).map(write1).join(", ")})` : "";
      const name = this.data.entries[entry] || this.data.y;
      const even = smooth === undefined ? "" : `, smoothed ${write1(smooth)}`;
      return { name, text: write1(middle) + each + even, sort: middle, series, bold: entry === this.chosen };
    });
    rows.sort((a, b) => b.sort - a.sort);
    return this.tell(`${this.steps ? AXES[unit][0] : this.data.x} ${unit === "steps" ? x : write[unit](x)}`, rows, at, this.top);
  }

  tell(title, rows, x, y) {
    const { tip } = this, most = 16;
    tip.replaceChildren();
    node(tip, "b", {}, title);
    const list = node(tip, "div", { class: "rows" });
    for (const { name, text, series, bold } of rows.slice(0, most)) {
      const row = node(list, "div", bold ? { class: "bold" } : {});
      const key = series && this.buttons.find(button => Number(button.dataset.e) === series.entry);
      if (key) row.append(key.querySelector("svg").cloneNode(true));
      node(row, "span", {}, name);
      node(row, "span", {}, text);
    }
    if (rows.length > most) node(tip, "div", {}, `and ${rows.length - most} more`);
    tip.hidden = false;
    const scale = this.svg.getBoundingClientRect().width / WIDTH, room = this.box.clientWidth, width = tip.offsetWidth;
    const right = x * scale + 14;
    tip.style.left = Math.max(0, right + width > room ? Math.max(x * scale - 14 - width, 0) : right) + "px";
    tip.style.top = Math.max(0, y * scale - (this.data.scatter ? tip.offsetHeight + 14 : 0)) + "px";
    return [title, ...rows.map(({ name, text }) => `${name} ${text}`)].join(", ");
  }

  press(event) {
    const { key, shiftKey } = event;
    if (key === "Escape") { this.hide(); this.chosen = -1; return this.window && this.whole(); }
    if (key === "0") return this.whole();
    if ((key === "+" || key === "-") && !this.data.scatter) {
      const middle = this.cursor ?? (this.x.low + this.x.high) / 2, half = (this.x.high - this.x.low) * (key === "+" ? 0.25 : 1);
      const all = this.places();
      if (key === "-" && this.window && half >= 0.5 * Math.abs(all.at(-1) - all[0]) * 4) return this.whole();
      this.zoom(middle - half, middle + half);
      return say(this.show(middle));
    }
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[key], upwards = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (!sideways && !upwards && key !== "Home" && key !== "End") return;
    event.preventDefault();
    if (upwards) {
      const shown = this.data.entries.map((_, entry) => entry).filter(entry => !state.hidden.has(this.data.entries[entry]));
      const choices = [-1, ...shown], now = choices.indexOf(this.chosen);
      this.chosen = choices[(now + upwards + choices.length) % choices.length];
    }
    const places = this.places();
    if (!places.length) return;
    let now = places.findIndex(x => x >= (this.cursor ?? -Infinity) - 1e-9);
    if (now < 0) now = places.length - 1;
    if (sideways && this.cursor !== null) now += sideways * (shiftKey ? Math.ceil(places.length / 10) : 1);
    if (key === "Home") now = 0;
    if (key === "End") now = places.length - 1;
    const x = places[Math.min(Math.max(now, 0), places.length - 1)];
    if (!this.data.scatter) return say(this.show(x));
    const chosen = this.data.series.find(series => this.shown(series) && (this.chosen < 0 || series.entry === this.chosen) && series.points.some(([px]) => px === x));
    if (chosen) say(this.showPoint(chosen, ...chosen.points.find(([px]) => px === x)));
  }
}
