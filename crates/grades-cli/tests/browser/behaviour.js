// Does what a reader does with the figures of a page, and writes into an <output> what came of it.
addEventListener('load', () => {
  const figures = [...document.querySelectorAll('figure')].filter(figure => figure.querySelector('script.values'));
  const charts = figures.filter(figure => !JSON.parse(figure.querySelector('script.values').textContent).scatter);
  const several = charts.filter(figure => figure.querySelector('.legend') && figure.querySelector('.plot svg').getBoundingClientRect().width > 0);
  const numbers = text => (text.match(/-?\d+\.?\d*/g) || []).map(Number);
  const words = figure => [...figure.querySelectorAll('.axes text, .names text')].map(text => text.textContent);
  const paths = figure => [...figure.querySelectorAll('.plot .axes path, .plot .lines path, .plot .names path')].map(path => path.getAttribute('d'));
  const look = figure => ({ words: words(figure), paths: paths(figure) });
  // How far two drawings are apart: units of the drawing; a thousand where they are not of the same parts.
  const apart = (a, b) => {
    if (a.words.join() !== b.words.join() || a.paths.length !== b.paths.length) return 1000;
    let most = 0;
    a.paths.forEach((path, index) => {
      const [left, right] = [numbers(path), numbers(b.paths[index])];
      if (left.length !== right.length) most = 1000;
      left.forEach((number, at) => { most = Math.max(most, Math.abs(number - right[at])); });
    });
    return most;
  };
  const before = charts.map(look);
  const farthest = () => Math.max(...charts.map((figure, index) => apart(before[index], look(figure))));
  const click = (element, kind = 'click', options = {}) => element.dispatchEvent(new MouseEvent(kind, { bubbles: true, ...options }));
  const buttons = figure => [...figure.querySelectorAll('.legend button')];
  const pressed = figure => buttons(figure).map(button => button.getAttribute('aria-pressed') === 'true');
  const point = (figure, kind, x, y = 0.5) => {
    const svg = figure.querySelector('.plot svg'), box = svg.getBoundingClientRect();
    svg.setPointerCapture = () => {};
    svg.dispatchEvent(new PointerEvent(kind, { bubbles: true, pointerType: 'mouse', button: 0, clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
  };
  const press = (figure, key) => figure.querySelector('.plot svg').dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, key }));
  const tip = figure => {
    const box = figure.querySelector('.tip');
    return box.hidden ? null : { title: box.querySelector('b').textContent, rows: [...box.querySelectorAll('.rows > div')].map(row => [...row.querySelectorAll('span')].map(span => span.textContent)) };
  };
  const found = {};
  const [loss] = several, [first] = buttons(loss), name = first.textContent;
  found.entries = buttons(loss).length;
  found.untouched = farthest();

  // Hidden and shown again: in this figure and in all that have a line of this name; drawn again, all is as the page had it.
  click(first);
  const same = charts.flatMap(buttons).filter(button => button.textContent === name);
  found.hidden = { pressed: pressed(loss), lines: [...loss.querySelectorAll('.lines [data-s]')].length, everywhere: same.every(button => button.getAttribute('aria-pressed') === 'false') };
  found.moved = farthest();
  click(first);
  found.redrawn = farthest();
  click(first, 'click', { shiftKey: true });
  found.alone = pressed(loss);
  click(first, 'dblclick');
  found.together = pressed(loss);

  // Under the pointer: what the data have at that step.
  point(loss, 'pointermove', 0.4);
  found.tip = tip(loss);
  const values = JSON.parse(loss.querySelector('script.values').textContent);
  const step = Number(found.tip.title.replace('step ', ''));
  found.known = values.series.flatMap(series => series.ys.filter((y, index) => y !== null && (series.xs ? series.xs[index] : series.from + index) === step));
  point(loss, 'pointerleave', 0.4);
  found.left = tip(loss);

  // With the keyboard.
  press(loss, 'End');
  found.end = [tip(loss).title, document.querySelector('[aria-live]').textContent];
  press(loss, 'ArrowLeft');
  found.back = tip(loss).title;
  press(loss, 'Escape');
  found.escaped = tip(loss);

  // Other axes, smoothing, a closer look, and back.
  const tools = document.querySelector('.tools');
  const axis = kind => click(tools.querySelector(`[data-axis=${kind}]`));
  axis('seconds');
  found.seconds = words(loss).includes('time');
  axis('flops');
  found.flops = words(loss).some(word => word.endsWith('FLOP'));
  axis('steps');
  found.steps = farthest();
  const range = tools.querySelector('input'), smooth = to => { range.value = to; range.dispatchEvent(new Event('input')); };
  const lines = () => loss.querySelectorAll('.lines [data-s="0"] path[fill=none]').length;
  smooth(0.9);
  found.smoothed = [lines(), loss.querySelectorAll('.lines path[opacity]').length];
  smooth(0);
  point(loss, 'pointerdown', 0.3);
  point(loss, 'pointermove', 0.5);
  point(loss, 'pointerup', 0.5);
  found.closer = { moved: farthest(), reset: !loss.querySelector('.reset').hidden };
  click(loss.querySelector('.reset'));
  found.whole = farthest();

  // A table sorted by its first column of numbers.
  const table = document.querySelector('table.sortable');
  if (table) {
    const column = [...table.tBodies[0].rows[0].cells].findIndex(cell => cell.dataset.v !== undefined);
    const order = () => [...table.tBodies[0].rows].map(row => Number(row.cells[column].dataset.v));
    const button = table.tHead.rows[0].cells[column].querySelector('button');
    click(button);
    found.up = order();
    click(button);
    found.down = order();
  }
  const output = document.createElement('output');
  output.textContent = JSON.stringify(found);
  document.body.append(output);
});
