"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const MAX_CHOSEN = 8; // chosen at first
  const MAX_TICKED = 24; // by one click
  const MAX_LISTED = 200; // rows of a table in the document
  const MAX_DRAWN = 40; // rows in the plots against columns
  const MAX_LABEL = 32; // characters beside a plot
  const FILTER_DELAY = 120; // ms after the last key
  const THRESHOLD = -2; // log10 of the variance above which a unit is active
  const BIN = 0.25;
  const PALETTE = {
    light: "#2f6db5 #c8402f #2d8a57 #9a4fa8 #d08a1d #178f9c #7a6a1f #d4629a #5b6270 #8a5a3c".split(" "),
    dark: "#7fb0ee #f0806c #6cc795 #cf93dc #ecb55a #5cc6d2 #c9b95f #f09cc4 #a9b1be #c99a7a".split(" "),
  };
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross"];
  const CURVES = {
    "val/bound": "validation bound L̂ₖ (nats)",
    "train/bound": "training bound L̂ₖ (nats)",
    "val/nll": "validation NLL, −L̂₁₀₀ (nats)",
    "val/active_units": "active units, validation images",
  };

  // What each picture shows.
  const GRIDS = {
    samples: "p(x | z), z drawn from the prior.",
    reconstructions: "Validation images, each with its reconstruction to the right.",
    interpolations: "From one test image (left) to another (right), along the line between their posterior means.",
    traversals: "A row for each of the most active units of the top layer, from −3 to 3 standard deviations of its prior.",
    posteriors: "Validation images, their true posterior p(z | x), and q(z | x) in the same frame.",
  };

  // One protocol is shown at a time; each keeps what the reader chose in it.
  const views = data.tables.map((table) => ({
    table,
    words: [],
    chosen: new Set(initialChoice(table)),
    curve: Object.keys(CURVES).find((key) => table.runs.some((run) => run.curves[key])),
    layer: 0,
    grid: Object.keys(GRIDS).find((name) => table.runs.some((run) => run.grids[name])) ?? "samples",
  }));
  let view = views[0];

  function initialChoice(table) {
    const last = new Map(); // one run per row: the last column's
    for (const run of table.runs) {
      const best = last.get(run.row);
      if (!best || table.columns.indexOf(run.column) > table.columns.indexOf(best.column)) last.set(run.row, run);
    }
    return [...last.values()].slice(0, MAX_CHOSEN).map((run) => run.id);
  }

  // --- small helpers -------------------------------------------------------------------------------

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child != null));
    return made;
  }

  const byId = (id) => document.getElementById(id);
  const fixed = (value, digits = 2) => (value == null ? "–" : value.toFixed(digits));
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  const color = (index) => PALETTE[dark.matches ? "dark" : "light"][index % 10];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); // plotly reads tags in its texts
  const rowName = (row) => [row.objective, ...row.setting].join(" ");
  const further = (run) => run.differs.filter((pair) => !/^(k|model|objective)=/.test(pair));
  const searched = (run) =>
    [run.id, run.model, run.objective, `model=${run.model}`, `objective=${run.objective}`, `k=${run.k}`, `seed=${run.seed}`, ...run.differs].map((part) =>
      part.toLowerCase(),
    );

  const shownRuns = () =>
    view.table.runs.filter((run) => view.words.every((word) => searched(run).some((part) => matches(part, word))));
  const matches = (part, word) => (word.includes("=") ? part === word : part.includes(word));

  // The runs ticked and shown, each with its color and a name that says how it differs from the others.
  function chosenRuns() {
    const runs = shownRuns().filter((run) => view.chosen.has(run.id));
    const unlike = (pair) => !runs.every((run) => run.differs.includes(pair));
    return runs.map((run, index) => ({
      ...run,
      color: color(index),
      name: [run.objective, run.model, `k=${run.k}`, `seed ${run.seed}`, ...further(run).filter(unlike)].join(" "),
    }));
  }

  // --- tables --------------------------------------------------------------------------------------

  // columns: {title, value(item) to sort by, cell(item) to show, number}; sorted stably by the last head clicked.
  function sortable(className, columns, items, each = () => ({})) {
    const body = element("tbody");
    const heads = columns.map((column) => {
      if (!column.value) return element("th", { scope: "col" }, column.title);
      const button = element("button", { type: "button" }, column.title);
      const head = element("th", { scope: "col", class: column.number && "number", "aria-sort": "none" }, button);
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", direction);
        fill([...items].sort(compare(column.value, direction === "ascending" ? 1 : -1)));
      });
      return head;
    });
    const fill = (sorted) =>
      body.replaceChildren(
        ...sorted.slice(0, MAX_LISTED).map((item) =>
          element(
            "tr",
            each(item),
            ...columns.map((column) =>
              element("td", { class: column.number && "number" }, ...[column.cell(item)].flat()),
            ),
          ),
        ),
        ...(sorted.length > MAX_LISTED ? [more(sorted.length - MAX_LISTED, columns.length)] : []),
      );
    fill(items);
    return element(
      "div",
      { class: "scroll" },
      element("table", { class: className }, element("thead", {}, element("tr", {}, ...heads)), body),
    );
  }

  const more = (count, colspan) =>
    element("tr", {}, element("td", { class: "empty", colspan }, `${count} more: sort or filter to see them.`));

  function compare(value, sign) {
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x == null || y == null) return (x == null) - (y == null); // missing values come last either way
      return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
    };
  }

  function resultCell(cell) {
    if (!cell) return "";
    const over = (cell.seeds === 1 ? "†" : ` ×${cell.seeds}`) + (cell.borrowed ? "‡" : "");
    const parts = [
      element("span", { class: cell.best && "best" }, fixed(cell.nll)),
      element("span", { class: "error" }, ` ± ${fixed(cell.se)}${over}`),
      element("small", {}, `${cell.units} units`),
    ];
    if (cell.paper) {
      const difference = element("span", { class: cell.difference < 0 ? "better" : "worse" }, signed(cell.difference));
      parts.push(
        element(
          "small",
          { title: `the paper: ${cell.paper.units} units` },
          `paper ${fixed(cell.paper.nll)} `,
          difference,
        ),
      );
    }
    if (cell.lowest) {
      const [nll, se] = cell.lowest;
      parts.push(element("small", {}, `lowest ${signed(nll)} ± ${fixed(se)} paired`));
    }
    if (cell.gap) {
      const [gap, se] = cell.gap;
      parts.push(element("small", {}, `test−train ${signed(gap)} ± ${fixed(se)}`));
    }
    if (cell.encoder) {
      const [approximation, amortization] = cell.encoder;
      parts.push(element("small", {}, `approximation ${fixed(approximation)}, amortization ${fixed(amortization)}`));
    }
    return parts;
  }

  function resultsTable() {
    const { table } = view;
    const shown = new Set(shownRuns().map((run) => run.row));
    const columns = [
      { title: "objective", value: rowName, cell: (row) => [row.objective, " ", ...chips(row.setting)] },
      { title: "model", value: (row) => row.model, cell: (row) => row.model },
      ...table.columns.map((name) => ({
        title: `${table.by}=${name}`,
        value: (row) => row.cells[name]?.nll,
        cell: (row) => resultCell(row.cells[name]),
        number: true,
      })),
    ];
    return sortable(
      "results",
      columns,
      table.rows.filter((_, index) => shown.has(index)),
    );
  }

  const chips = (texts) => texts.map((text) => element("span", { class: "chip" }, text));

  function runsTable() {
    const shown = shownRuns();
    const gaps = ["approximation", "amortization"].filter((name) => view.table.runs.some((run) => run[name]));
    const box = (run) =>
      element("input", {
        type: "checkbox",
        checked: view.chosen.has(run.id),
        "aria-label": `plot ${run.id}`,
        onchange: (event) => choose(run, event.target),
      });
    const columns = [
      { title: "plot", value: (run) => (view.chosen.has(run.id) ? 0 : 1), cell: box },
      { title: "objective", value: (run) => run.objective, cell: (run) => run.objective },
      { title: "model", value: (run) => run.model, cell: (run) => run.model },
      { title: "k", value: (run) => run.k, cell: (run) => String(run.k), number: true },
      { title: "seed", value: (run) => run.seed, cell: (run) => String(run.seed), number: true },
      {
        title: "test NLL",
        value: (run) => run.nll,
        cell: (run) => [fixed(run.nll), element("span", { class: "error" }, ` ± ${fixed(run.se)}†`)],
        number: true,
      },
      { title: "test ELBO", value: (run) => run.elbo, cell: (run) => fixed(run.elbo), number: true },
      { title: "validation NLL", value: (run) => run.val, cell: (run) => fixed(run.val), number: true },
      ...gaps.map((name) => ({
        title: name,
        value: (run) => run[name]?.[0],
        cell: (run) =>
          run[name] ? [fixed(run[name][0]), element("span", { class: "error" }, ` ± ${fixed(run[name][1])}`)] : "",
        number: true,
      })),
      { title: "units", value: (run) => run.total, cell: (run) => run.units, number: true },
      { title: "epochs", value: (run) => run.epochs, cell: (run) => String(run.epochs), number: true },
      { title: "minutes", value: (run) => run.minutes, cell: (run) => fixed(run.minutes, 1), number: true },
      {
        title: "differs in",
        value: (run) => run.differs.join(" "),
        cell: (run) => [...chips(further(run)), element("small", { class: "id" }, run.id)],
      },
    ];
    return sortable("runs", columns, shown, (run) => ({ class: view.chosen.has(run.id) && "chosen" }));
  }

  function choose(run, box) {
    if (box.checked) view.chosen.add(run.id);
    else view.chosen.delete(run.id);
    box.closest("tr").classList.toggle("chosen", box.checked);
    drawChosen();
  }

  // --- plots ---------------------------------------------------------------------------------------

  function plot(id, traces, layout) {
    const axis = {
      gridcolor: css("--line"),
      zeroline: false,
      linecolor: css("--line"),
      tickcolor: css("--line"),
      automargin: true,
    };
    const themed = Object.fromEntries(
      Object.entries(layout).map(([key, value]) => [key, /^[xy]axis/.test(key) ? { ...axis, ...value } : value]),
    );
    Plotly.react(
      id,
      traces,
      {
        height: 360,
        margin: { t: 10, r: 10, b: 45, l: 55 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: css("--soft") },
        showlegend: false,
        hoverlabel: {
          bgcolor: css("--surface"),
          bordercolor: css("--line"),
          font: { color: css("--ink") },
          align: "left",
          namelength: -1,
        },
        hovermode: "closest",
        ...themed,
      },
      { displayModeBar: false, responsive: true },
    );
  }

  function legend(id, entries) {
    const line = (entry) =>
      element("span", { class: "line", style: `border-top: 3px ${entry.dotted ? "dotted" : "solid"} ${entry.color}` });
    byId(id).replaceChildren(...entries.map((entry) => element("li", {}, line(entry), entry.name)));
  }

  function columnAxis() {
    const { by, columns } = view.table;
    const numbers = columns.map(Number);
    const title = { text: by };
    if (numbers.some((number) => !Number.isFinite(number))) return { type: "category", categoryarray: columns, title };
    const positive = numbers.every((number) => number > 0);
    return {
      type: positive ? "log" : "linear",
      tickvals: numbers,
      ticktext: columns,
      title,
      range: padded(positive ? numbers.map(Math.log10) : numbers),
    };
  }

  function padded(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = 0.07 * (high - low) || 0.5;
    return [low - room, high + room];
  }

  function drawAgainstColumns() {
    const { table } = view;
    const shown = [...new Set(shownRuns().map((run) => run.row))];
    const lowest = (index) => Math.min(...Object.values(table.rows[index].cells).map((cell) => cell.nll));
    const drawn = new Set(shown.sort((a, b) => lowest(a) - lowest(b)).slice(0, MAX_DRAWN));
    byId("undrawn").textContent =
      drawn.size < shown.length ? `Showing the ${drawn.size} of ${shown.length} rows with the lowest NLL.` : "";
    const lying = table.rows.every((row) => Object.keys(row.cells).length === 1); // no row to draw a line through
    const models = [...new Set(table.rows.map((row) => row.model))];
    const names = [...new Set(table.rows.map(rowName))];
    const traces = { nll: [], total: [] };
    const entries = [];
    table.rows.forEach((row, index) => {
      if (!drawn.has(index)) return;
      const columns = table.columns.filter((name) => row.cells[name]);
      const cells = columns.map((name) => row.cells[name]);
      const name = `${rowName(row)}, ${row.model}`;
      entries.push({ name, color: color(names.indexOf(rowName(row))), dotted: models.indexOf(row.model) > 0 });
      const base = {
        x: columns,
        row: index,
        name: escaped(name),
        mode: "lines+markers",
        line: {
          color: color(names.indexOf(rowName(row))),
          width: 2,
          dash: models.indexOf(row.model) ? "dot" : "solid",
        },
        marker: { symbol: SYMBOLS[models.indexOf(row.model) % 5], size: 8 },
      };
      const paper = (y, text) => ({
        x: columns.filter((_, i) => cells[i].paper),
        row: index,
        y,
        text,
        name: escaped(`${name}, paper`),
        mode: "markers",
        marker: { symbol: base.marker.symbol + "-open", size: 11, color: base.line.color },
        hovertemplate: `<b>%{fullData.name}</b><br>${escaped(table.by)}=%{x}: %{text}<extra></extra>`,
      });
      const papers = cells.filter((cell) => cell.paper).map((cell) => cell.paper);
      const over = (cell) => (cell.seeds === 1 ? "over images, one seed" : `over ${cell.seeds} seeds`);
      traces.nll.push({
        ...base,
        y: cells.map((cell) => cell.nll),
        error_y: { array: cells.map((cell) => cell.se), thickness: 1.2, width: 3 },
        text: cells.map((cell) => `${fixed(cell.nll)} ± ${fixed(cell.se)} nats (${over(cell)})`),
        hovertemplate: `<b>%{fullData.name}</b><br>${escaped(table.by)}=%{x}: %{text}<extra></extra>`,
      });
      traces.total.push({
        ...base,
        y: cells.map((cell) => cell.total),
        text: cells.map((cell) => cell.units),
        hovertemplate: `<b>%{fullData.name}</b><br>${escaped(table.by)}=%{x}: %{text} active units<extra></extra>`,
      });
      if (papers.length) {
        traces.nll.push(
          paper(
            papers.map((cell) => cell.nll),
            papers.map((cell) => `${fixed(cell.nll)} nats`),
          ),
        );
        traces.total.push(
          paper(
            papers.map((cell) => cell.active_units.reduce((a, b) => a + b)),
            papers.map((cell) => `${cell.units} active units`),
          ),
        );
      }
    });
    legend("rows", lying ? [] : entries);
    const rows = [...drawn].sort((a, b) => a - b);
    const several = table.columns.length > 1;
    const rowLabel = ({ cells, ...row }) => {
      const name = `${rowName(row)}${models.length > 1 ? `, ${row.model}` : ""}`;
      return escaped(cut(several ? `${name}, ${table.by}=${Object.keys(cells)[0]}` : name));
    };
    const draw = (id, traces, axis) => {
      if (!lying) return plot(id, traces, { xaxis: columnAxis(), yaxis: axis });
      const title = { text: several ? axis.title.text : `${axis.title.text}, ${table.by}=${table.columns[0]}` };
      const labels = id === "nll" ? rows.map((index) => rowLabel(table.rows[index])) : rows.map(() => "");
      const yaxis = {
        tickvals: rows.map((_, place) => place),
        ticktext: labels,
        range: [rows.length - 0.5, -0.5],
        tickfont: { size: 11 },
      };
      const laid = traces.map((trace) => laidDown(trace, rows.indexOf(trace.row)));
      return plot(id, laid, { xaxis: { ...axis, title }, yaxis, height: 140 + 18 * rows.length });
    };
    draw("nll", traces.nll, { title: { text: "test NLL (nats)" } });
    draw("units", traces.total, { title: { text: "active units, all layers" }, rangemode: "tozero" });
  }

  const cut = (text) => (text.length > MAX_LABEL ? `${text.slice(0, MAX_LABEL - 1)}…` : text);

  // A trace of a single cell as a mark at the height of its row.
  const laidDown = (trace, place) => ({
    ...trace,
    x: trace.y,
    y: trace.y.map(() => place),
    mode: "markers",
    error_x: trace.error_y,
    error_y: undefined,
    hovertemplate: trace.hovertemplate.replace("%{x}", escaped(trace.x[0] ?? "")),
  });

  function drawChosen() {
    const runs = chosenRuns();
    legend("chosen", runs);
    drawCurves(runs);
    drawVariances(runs);
    drawTightness(runs);
    drawThresholds(runs);
    drawGrids(runs);
  }

  function drawCurves(runs) {
    const drawn = runs.filter((run) => run.curves[view.curve]);
    const longest = Math.max(1, ...drawn.flatMap((run) => run.curves[view.curve][0]));
    const values = drawn.flatMap((run) => run.curves[view.curve][1]).sort((a, b) => a - b);
    const traces = drawn.map((run) => ({
      x: run.curves[view.curve][0],
      y: run.curves[view.curve][1],
      name: escaped(run.name),
      mode: view.curve === "train/bound" ? "lines" : "lines+markers",
      line: { color: run.color, width: 1.8 },
      marker: { size: 5 },
      hovertemplate: "<b>%{fullData.name}</b><br>after %{x} epochs: %{y:.2f}<extra></extra>",
    }));
    plot("curves", traces, {
      height: histogramsHeight(drawn.length),
      xaxis: { title: { text: "epochs" }, type: longest > 50 ? "log" : "linear" },
      yaxis: { title: { text: CURVES[view.curve] }, range: values.length > 1 ? startCut(values) : null },
    });
  }

  // The first epochs are so far off that they would flatten the rest; a double click shows them.
  function startCut(sorted) {
    if (view.curve === "val/active_units") return null;
    const worse = Math.floor(0.3 * (sorted.length - 1));
    return padded(
      view.curve === "val/nll"
        ? [sorted[0], sorted[sorted.length - 1 - worse]]
        : [sorted[worse], sorted[sorted.length - 1]],
    );
  }

  const histogramsHeight = (count) => Math.max(380, 90 + 66 * count);

  const thresholdLine = () => ({
    type: "line",
    x0: THRESHOLD,
    x1: THRESHOLD,
    y0: 0,
    y1: 1,
    yref: "paper",
    line: { color: css("--soft"), width: 1, dash: "dash" },
  });

  // One histogram per run, stacked, so that many can be told apart.
  function drawVariances(runs) {
    const drawn = runs.filter((run) => run.variances[view.layer]);
    const all = drawn.flatMap((run) => run.variances[view.layer]);
    const low = Math.floor(Math.min(THRESHOLD, ...all) / BIN) * BIN;
    const bins = Math.floor((Math.max(THRESHOLD, ...all) - low) / BIN) + 1;
    const centers = Array.from({ length: bins }, (_, bin) => low + (bin + 0.5) * BIN);
    const layout = {
      height: histogramsHeight(drawn.length),
      bargap: 0.06,
      xaxis: { title: { text: "log₁₀ A<sub>u</sub>" }, anchor: "free", position: 0 },
      shapes: [thresholdLine()],
      annotations: [
        {
          x: THRESHOLD,
          y: 1,
          yref: "paper",
          yanchor: "bottom",
          text: "active above 0.01",
          showarrow: false,
          font: { size: 11 },
        },
      ],
      margin: { t: 22, r: 10, b: 45, l: 35 },
    };
    const traces = drawn.map((run, position) => {
      const counts = new Array(bins).fill(0);
      run.variances[view.layer].forEach((value) => counts[Math.floor((value - low) / BIN)]++);
      const suffix = position ? String(position + 1) : "";
      const bottom = 1 - (position + 1) / drawn.length;
      const top = bottom + 0.86 / drawn.length;
      const most = Math.max(...counts);
      layout["yaxis" + suffix] = {
        domain: [bottom, top],
        nticks: 3,
        tickformat: "d",
        range: [0, most * 1.6],
      };
      const text = `<b>${run.active[view.layer]}</b> of ${run.variances[view.layer].length}: ${escaped(run.name)}`;
      layout.annotations.push({
        text,
        x: 0,
        xref: "paper",
        xanchor: "left",
        y: top,
        yref: "paper",
        yanchor: "top",
        showarrow: false,
        font: { color: css("--ink"), size: 11.5 },
        bgcolor: css("--surface"),
      });
      return {
        type: "bar",
        x: centers,
        y: counts,
        yaxis: "y" + suffix,
        name: escaped(run.name),
        marker: { color: run.color },
        hovertemplate: "<b>%{fullData.name}</b><br>%{y} units near 10<sup>%{x:.2f}</sup><extra></extra>",
      };
    });
    plot("variances", traces, layout);
  }

  function drawTightness(runs) {
    const traces = runs.flatMap((run) => {
      const [k, nll, se] = [0, 1, 2].map((part) => run.tightness.map((point) => point[part]));
      const bound = {
        x: k,
        y: nll,
        error_y: { array: se, thickness: 1.2, width: 3 },
        name: escaped(run.name),
        mode: "lines+markers",
        line: { color: run.color, width: 1.8 },
        marker: { size: 5 },
        hovertemplate: "<b>%{fullData.name}</b><br>k=%{x}: %{y:.2f} nats<extra></extra>",
      };
      if (!run.ais) return [bound];
      const [value, error, images] = run.ais;
      const ais = {
        x: [k[0], k[k.length - 1]],
        y: [value, value],
        name: bound.name,
        mode: "lines",
        line: { color: run.color, width: 1.5, dash: "dash" },
        hovertemplate:
          `<b>%{fullData.name}</b><br>${fixed(value)} ± ${fixed(error)} nats, ` +
          `by AIS on ${images} images<extra></extra>`,
      };
      return [bound, ais];
    });
    const ks = [...new Set(runs.flatMap((run) => run.tightness.map(([k]) => k)))];
    plot("tightness", traces, {
      xaxis: { title: { text: "samples k" }, type: "log", tickvals: ks, ticktext: ks.map(String) },
      yaxis: { title: { text: "test NLL (nats)" } },
    });
  }

  function drawThresholds(runs) {
    const drawn = runs.filter((run) => run.variances[view.layer]);
    const all = drawn.flatMap((run) => run.variances[view.layer]);
    const ends = [Math.min(THRESHOLD, ...all) - BIN, Math.max(THRESHOLD, ...all) + BIN];
    const traces = drawn.flatMap((run) => {
      const logs = [...run.variances[view.layer]].sort((a, b) => a - b);
      const counts = {
        x: [ends[0], ...logs, ends[1]],
        y: [...logs.map((_, below) => logs.length - below), 0, 0],
        name: escaped(run.name),
        mode: "lines",
        line: { color: run.color, width: 1.8, shape: "hv" },
        hovertemplate: "<b>%{fullData.name}</b><br>%{y} units above 10<sup>%{x:.2f}</sup><extra></extra>",
      };
      const authors = {
        x: [THRESHOLD],
        y: [run.authors[view.layer]],
        name: counts.name,
        mode: "markers",
        marker: { color: run.color, size: 9, symbol: "x" },
        hovertemplate: "<b>%{fullData.name}</b><br>%{y} units as the paper's authors count<extra></extra>",
      };
      return run.authors[view.layer] == null ? [counts] : [counts, authors];
    });
    plot("thresholds", traces, {
      xaxis: { title: { text: "log₁₀ threshold of A<sub>u</sub>" } },
      yaxis: { title: { text: "units above it" }, rangemode: "tozero" },
      shapes: [thresholdLine()],
    });
  }

  function drawGrids(runs) {
    const withGrid = runs.filter((run) => run.grids[view.grid]);
    const figures = withGrid.map((run) =>
      element(
        "figure",
        {},
        element("img", { src: run.grids[view.grid], alt: `${view.grid} of ${run.id}` }),
        element(
          "figcaption",
          {},
          element("span", { class: "swatch", style: `background:${run.color}` }),
          run.name,
          element("br"),
          element("span", {}, `${fixed(run.nll)} nats, ${run.units} units`),
        ),
      ),
    );
    const missing = runs.length - withGrid.length;
    const held = view.table.runs.filter((run) => run.grids[view.grid]).length;
    byId("missing").textContent =
      `${GRIDS[view.grid]} The page holds the ${view.grid} of ${held} of ${counted(view.table.runs.length, "run")}, one seed per cell.` +
      (missing ? ` ${missing} of the runs plotted have none.` : "");
    byId("grids").replaceChildren(
      ...(figures.length ? figures : [element("p", { class: "empty" }, `None of the runs plotted has ${view.grid}.`)]),
    );
  }

  // --- the page ------------------------------------------------------------------------------------

  function fillSelect(id, pairs, selected, choose) {
    const select = byId(id);
    select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
    select.value = selected;
    select.onchange = () => choose(select.value);
  }

  function tickButton(text, ids) {
    const tick = () => {
      view.chosen = new Set(ids());
      showRuns();
      drawChosen();
    };
    return element("button", { class: "quiet", type: "button", onclick: tick }, text);
  }

  function showView() {
    const { table } = view;
    const curves = Object.entries(CURVES).filter(([key]) => table.runs.some((run) => run.curves[key]));
    byId("training").hidden = curves.length === 0;
    const layers = Math.max(0, ...table.runs.map((run) => run.variances.length));
    const layerNames = Array.from({ length: layers }, (_, i) => [String(i), `layer ${i + 1}`]);
    fillSelect("curve", curves, view.curve, (key) => {
      view.curve = key;
      drawCurves(chosenRuns());
    });
    fillSelect("layer", layerNames, view.layer, (index) => {
      view.layer = Number(index);
      drawVariances(chosenRuns());
      drawThresholds(chosenRuns());
    });
    const names = Object.keys(GRIDS);
    const grids = names.filter((name) => table.runs.some((run) => run.grids[name]));
    byId("pictures").hidden = grids.length === 0;
    fillSelect("grid", grids.map((name) => [name, name]), view.grid, (name) => {
      view.grid = name;
      drawGrids(chosenRuns());
    });
    const shownIds = () => shownRuns().map((run) => run.id);
    byId("ticks").replaceChildren(
      tickButton("first choice", () => initialChoice(table)),
      tickButton(`up to ${MAX_TICKED} shown`, () => shownIds().slice(0, MAX_TICKED)),
      tickButton("none", () => []),
    );
    byId("filter").value = view.words.join(" ");
    byId("filter").oninput = filter;
    byId("hollow").hidden = !table.rows.some((row) => Object.values(row.cells).some((cell) => cell.paper));
    for (const tab of document.querySelectorAll("nav button")) {
      tab.setAttribute("aria-selected", String(tab.dataset.protocol === table.protocol));
    }
    showFiltered();
  }

  let waiting;

  function filter(event) {
    view.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    clearTimeout(waiting);
    waiting = setTimeout(showFiltered, FILTER_DELAY);
  }

  function showFiltered() {
    const shown = shownRuns().length;
    byId("count").textContent = `${shown} of ${counted(view.table.runs.length, "run")}`;
    byId("results").replaceChildren(
      shown ? resultsTable() : element("p", { class: "empty" }, "No run has all of these words."),
    );
    showRuns();
    drawAgainstColumns();
    drawChosen();
  }

  const showRuns = () => byId("runs").replaceChildren(runsTable());

  function tab(each) {
    const show = () => {
      view = each;
      showView();
    };
    const { protocol, runs } = each.table;
    const count = element("small", {}, ` ${runs.length}`);
    return element(
      "button",
      { type: "button", role: "tab", "data-protocol": protocol, onclick: show },
      protocol,
      count,
    );
  }

  const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const total = data.tables.reduce((sum, table) => sum + table.runs.length, 0);
  byId("summary").textContent =
    `${counted(total, "run")} under ${counted(data.tables.length, "protocol")} · ${data.created}`;
  byId("legend").replaceChildren(...data.legend.map((text) => element("p", {}, text)));
  byId("notes").hidden = data.notes.length === 0;
  document.querySelector("#notes ul").replaceChildren(...data.notes.map((text) => element("li", {}, text)));
  byId("protocols").replaceChildren(...views.map(tab));
  if (view) {
    document.querySelector("main").hidden = false;
    showView();
    dark.addEventListener("change", () => {
      drawAgainstColumns();
      drawChosen();
    });
  }
})();
