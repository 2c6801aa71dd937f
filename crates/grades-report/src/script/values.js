// Numbers, axes and points, as number.rs, axis.rs and series.rs have them, and what a page holds of its runs.
const WIDTH = 480, CHARACTER = 7.7, POINTS = 320, STEEP = 50;
const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000, 1728000];
const AXES = { steps: ["step", "Steps"], seconds: ["time", "Time"], flops: ["training arithmetic", "FLOPs"] };
const MARKERS = ["m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "m-3 -3h6v6h-6z", "m0 -4l4 7h-8z", "m0 -4l4 4l-4 4l-4 -4z",
  "m-3.5 -3.5l7 7m0 -7l-7 7", "m0 4l4 -7h-8z", "m-4 0h8m-4 -4v8", "m-4 -1.5h8v3h-8z"];
const read = element => JSON.parse(element.textContent);
const clocks = [...document.querySelectorAll("script.clocks")].flatMap(read);
const plots = [];
const state = { axis: "steps", smoothing: 0, hidden: new Set(), windows: {}, open: [], sorted: {}, picked: [] };
const refresh = Number(document.documentElement.dataset.refresh);

// Numbers as number.rs writes them.
const finite = Number.isFinite;
const fixed = (value, decimals) => {
  if (!finite(value)) return "–";
  const text = value.toFixed(decimals);
  return text[0] !== "-" ? text : /^-[0.]*$/.test(text) ? text.slice(1) : "−" + text.slice(1);
};
const trimmed = text => text.includes(".") ? text.replace(/\.?0+$/, "") : text;
const si = size => {
  const found = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([scale]) => size >= scale);
  return found || [1, ""];
};
const short = value => {
  const size = Math.abs(value);
  if (!finite(value)) return "–";
  if (size === 0) return "0";
  if (size < 1e-3) {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    return trimmed(mantissa.replace("-", "−")) + "×10" + [...exponent.replace("+", "")].map(c => c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]).join("");
  }
  if (size < 1) return trimmed(fixed(value, 2 - Math.floor(Math.log10(size))));
  if (size < 10) return trimmed(fixed(value, 3));
  if (size < 100) return trimmed(fixed(value, 2));
  if (size < 1000) return trimmed(fixed(value, 1));
  if (size < 1e4) return fixed(value, 0);
  const [scale, prefix] = si(size);
  return trimmed(fixed(value / scale, 2)) + " " + prefix;
};
const withUnit = (value, unit) => {
  const [scale, prefix] = si(Math.abs(value)), scaled = value / scale;
  const decimals = Math.abs(scaled) < 10 && prefix ? 2 : Number(Math.abs(scaled) < 100);
  return trimmed(fixed(scaled, decimals)) + " " + prefix + unit;
};
const time = value => {
  const whole = Math.round(value), part = (count, unit) => count > 0 ? " " + count + " " + unit : "";
  if (!finite(value)) return "–";
  if (Math.abs(value) < 1e-9) return "0";
  if (value < 60) return short(value) + " s";
  if (whole < 3600) return (part(Math.floor(whole / 60), "min") + part(whole % 60, "s")).trim();
  return (part(Math.floor(whole / 3600), "h") + part(Math.floor(whole % 3600 / 60), "min")).trim();
};
const percent = share => trimmed(fixed(100 * share, Number(share !== 0 && Math.abs(share) < 0.1))) + " %";
const write = { number: short, steps: short, share: percent, bytes: v => withUnit(v, "B"), seconds: time, flops: v => withUnit(v, "FLOP") };

// Axes.
const linear = (values, fromZero) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (fromZero) { low = Math.min(low, 0); high = Math.max(high, 0); }
  if (low >= high) {
    const room = low === 0 ? 1 : 0.1 * Math.abs(low);
    [low, high] = [fromZero ? low : low - room, high + room];
  }
  return { low, high, log: false };
};
const fitting = (values, fromZero) => {
  const { low, high } = linear(values, fromZero), room = 0.05 * (high - low);
  if (!fromZero && low > 0 && high / low > STEEP) return { low: low / 1.2, high: high * 1.2, log: true };
  return { low: fromZero && low === 0 ? 0 : low - room, high: high + room, log: false };
};
const place = ({ low, high, log }, value) => log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
const value = ({ low, high, log }, at) => log ? low * (high / low) ** at : low + at * (high - low);
const ticks = ({ low, high, log }, unit) => {
  if (log) {
    const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    const few = high / low < 300, every = few ? 1 : Math.max(Math.floor((last - first + 1) / 6), 1), found = [];
    for (let power = first; power <= last; power += every)
      for (const factor of few ? [1, 2, 5] : [1]) found.push(factor * 10 ** power);
    return found.filter(tick => low <= tick && tick <= high);
  }
  const rough = (high - low) / 4.5, power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map(factor => factor * power).find(step => step >= rough) || rough;
  if (unit === "steps") step = Math.max(step, 1);
  if (unit === "seconds" && rough > 0.5) step = TIMES.find(step => step >= rough) || step;
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9), found = [];
  for (let multiple = first; multiple <= Math.min(last, first + 20); multiple++) found.push(multiple * step);
  return found;
};

// Of each stretch the lowest and the highest value, so that peaks stay.
const thinned = points => {
  if (points.length <= POINTS) return points;
  const size = Math.ceil(points.length / (POINTS / 2)), kept = [];
  for (let start = 0; start < points.length; start += size) {
    const stretch = points.slice(start, start + size);
    let low = -1, high = -1;
    stretch.forEach(([, y], index) => {
      if (!finite(y)) return;
      if (low < 0 || y < stretch[low][1]) low = index;
      if (high < 0 || y >= stretch[high][1]) high = index;
    });
    if (low < 0) kept.push(stretch[0]);
    else if (low === high) kept.push(stretch[low]);
    else kept.push(stretch[Math.min(low, high)], stretch[Math.max(low, high)]);
  }
  if (kept.at(-1) !== points.at(-1)) kept.push(points.at(-1));
  return kept;
};
// An exponential mean, freed of its start.
const smoothed = points => {
  let mean = 0, weight = 0;
  return points.map(([x, y]) => {
    if (!finite(y)) return [x, y];
    mean = state.smoothing * mean + (1 - state.smoothing) * y;
    weight = state.smoothing * weight + 1 - state.smoothing;
    return [x, mean / weight];
  });
};
// When the runs of a series were at a step, on the mean.
const converted = (runs, step) => {
  const column = state.axis === "seconds" ? 1 : 2, found = [];
  for (const clock of runs.map(run => clocks[run]).filter(clock => clock && clock.length)) {
    let high = clock.findIndex(tick => tick[0] >= step);
    if (high < 0) high = clock.length - 1;
    const [a, b] = [clock[Math.max(high - 1, 0)], clock[high]];
    const share = b[0] > a[0] ? Math.min((step - a[0]) / (b[0] - a[0]), 1) : 0;
    found.push(a[column] + share * (b[column] - a[column]));
  }
  return found.length ? found.reduce((sum, x) => sum + x, 0) / found.length : NaN;
};
