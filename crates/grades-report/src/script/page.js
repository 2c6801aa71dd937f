// What is one for the whole page: the horizontal axis and how smooth lines are, sorted tables, a page that is loaded anew.
// What moves with the keyboard is told to those who do not see it.
const told = node(document.body, "div", { class: "aside", "aria-live": "polite" });
const say = text => { told.textContent = text; };

const changed = () => {
  plots.forEach(plot => plot.draw());
  if (refresh) remember();
};

// Above the first figure: which horizontal axis, and how smooth.
const toolbar = () => {
  const follows = plots.some(plot => plot.steps) && clocks.some(clock => clock.length > 1), smooth = plots.some(plot => plot.data.smooth);
  const first = plots.find(plot => plot.steps), start = first && first.figure.closest(".figures");
  if (!start || !(follows || smooth)) return;
  const bar = node(document.body, "div", { class: "tools", role: "toolbar", "aria-label": "All figures over steps" });
  start.before(bar);
  if (follows) {
    const choices = node(bar, "span", { role: "group", "aria-label": "Horizontal axis" });
    const buttons = Object.entries(AXES).map(([axis, [, title]]) => {
      const button = node(choices, "button", { type: "button", "aria-pressed": String(axis === state.axis), "data-axis": axis }, title);
      button.addEventListener("click", () => {
        if (state.axis !== axis) state.windows = {};
        state.axis = axis;
        buttons.forEach(other => other.setAttribute("aria-pressed", String(other === button)));
        changed();
      });
      return button;
    });
  }
  if (smooth) {
    const label = node(bar, "label", {}, "Smoothing ");
    const range = node(label, "input", { type: "range", min: 0, max: 0.99, step: 0.01, value: state.smoothing });
    const shown = node(label, "output", {}, String(state.smoothing));
    range.addEventListener("input", () => {
      state.smoothing = Number(range.value);
      shown.textContent = range.value;
      changed();
    });
  }
};

// Tables sorted by a column: once up, once down.
const sortable = (table, index) => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const title = head.textContent;
    head.textContent = "";
    const button = node(head, "button", { type: "button" }, title);
    const sort = down => {
      state.sorted[index] = [column, down];
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.v === undefined ? row.cells[column].textContent : Number(row.cells[column].dataset.v);
      const last = row => key(row) === "–";
      const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      const rows = [...body.rows].sort((a, b) => last(a) - last(b) || (down ? -1 : 1) * order(key(a), key(b)));
      body.append(...rows);
    };
    button.addEventListener("click", () => sort(head.getAttribute("aria-sort") === "ascending"));
    const [sorted, down] = state.sorted[index] || [];
    if (sorted === column) sort(down);
  });
};

// A page of a run that goes on loads itself anew, but not under somebody's pointer, and looks as it was left; so does the page of its end.
const details = () => [...document.querySelectorAll("details")];
const picks = () => [...document.querySelectorAll(".picker > input")];
const remember = () => {
  state.picked = picks().flatMap((of, index) => of.checked ? [index] : []);
  state.open = details().flatMap((of, index) => of.open ? [index] : []);
  try { sessionStorage.setItem(location.pathname, JSON.stringify({ ...state, hidden: [...state.hidden] })); } catch { /* not kept then */ }
};
const recall = () => {
  try {
    const kept = JSON.parse(sessionStorage.getItem(location.pathname));
    if (kept) Object.assign(state, kept, { hidden: new Set(kept.hidden) });
  } catch { /* nothing is kept */ }
};
recall();
if (!refresh) {
  try { sessionStorage.removeItem(location.pathname); } catch { /* there is none */ }
}
details().forEach((of, index) => { if (state.open.includes(index)) of.open = true; });
picks().forEach((of, index) => { if (state.picked.includes(index)) of.checked = true; });
if (refresh) {
  const again = () => {
    if (document.hidden || plots.some(plot => plot.cursor !== null && plot.cursor !== undefined)) return setTimeout(again, 1000);
    remember();
    location.reload();
  };
  setTimeout(again, 1000 * refresh);
}
// On paper nothing can be opened.
let closed = [];
addEventListener("beforeprint", () => {
  closed = details().filter(of => !of.open);
  closed.forEach(of => { of.open = true; });
});
addEventListener("afterprint", () => closed.forEach(of => { of.open = false; }));
document.querySelectorAll("script.values").forEach((script, index) => plots.push(new Plot(script, index)));
document.querySelectorAll("table.sortable").forEach(sortable);
toolbar();
changed();
document.documentElement.classList.add("live");
