// The linked views of a report. What is looked at is `state`, which stands in the address; `show` draws what changed.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const PALETTE = [
  "#332288",
  "#CC6677",
  "#117733",
  "#DDCC77",
  "#88CCEE",
  "#882255",
  "#44AA99",
  "#999933",
  "#AA4499",
  "#777777",
];
const ON_DARK = { "#332288": "#8f86e8", "#117733": "#4cbf75", "#882255": "#dd6fa6", "#777777": "#aaaaaa" };
const MOST_LISTED = 24;

// ---------------------------------------------------------------- small things

const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
const size = (value) =>
  value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))).replace("-", "−");
const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function csv(rows) {
  const cell = (value) => (/[",\n]/.test(value ?? "") ? `"${String(value).replaceAll('"', '""')}"` : (value ?? ""));
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

const records = (rows) => csv(rows.length ? [Object.keys(rows[0]), ...rows.map((row) => Object.values(row))] : []);

// ---------------------------------------------------------------- the state, and the address

const start = { layer: 0, a: 0, b: 1, sample: null, root: 0, branch: "", unit: null, colors: "network", q: "" };
let state = { ...start };

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const found = { ...start };
  for (const name of Object.keys(start)) {
    if (!given.has(name)) continue;
    const text = given.get(name);
    found[name] = ["colors", "q", "branch"].includes(name) ? text : Number.parseInt(text, 10);
  }
  const within = (name, length) => {
    if (found[name] !== null && !(found[name] >= 0 && found[name] < length)) found[name] = start[name];
  };
  within("layer", data.layers.length);
  for (const name of ["a", "b"]) within(name, data.outputs.length);
  within("root", data.tree ? data.tree.roots.length : 0);
  within("sample", data.samples.index.length);
  within("unit", data.units ? data.units.name.length : 0);
  if (found.a === found.b) [found.a, found.b] = [start.a, start.b];
  return found;
}

function go(change, { keep = true } = {}) {
  const next = { ...state, ...change };
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(next)) if (value !== start[name]) words.set(name, value);
  const hash = "#" + words;
  if (hash === location.hash) return;
  if (keep)
    location.hash = hash; // a step that the back button takes back; `hashchange` shows it
  else {
    try {
      history.replaceState(null, "", hash);
    } catch {
      /* a frame in a notebook has no address of its own */
    }
    show(next);
  }
}

// ---------------------------------------------------------------- figures

const views = {}; // by figure: what Vega drew, and the rows behind it

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [ink, quiet, rule] = ["--ink", "--quiet", "--rule"].map((name) => style.getPropertyValue(name).trim());
  const text = { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 600 };
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: rule },
    axis: { ...text, gridColor: rule, gridOpacity: 0.4, domainColor: quiet, tickColor: quiet },
    legend: {
      ...text,
      orient: "bottom",
      columns: at("status").parentElement.clientWidth < 600 ? 2 : 5,
      labelLimit: 130,
    },
    rule: { color: ink },
    text: { color: ink },
    range: { category: colors() },
  };
}

const colors = () => PALETTE.map((color) => (dark.matches ? (ON_DARK[color] ?? color) : color));

async function draw(id, spec, { click, rows, renderer = "svg", ready } = {}) {
  const figure = at(id);
  if (!figure) return;
  const turn = (views[id] = { ...views[id], rows, turn: (views[id]?.turn ?? 0) + 1 }).turn;
  const place = make("div");
  const full = { width: "container", config: theme(), ...spec, autosize: { type: "fit-x", contains: "padding" } };
  figure.querySelector(".plot").append(place);
  place.style.width = "100%";
  const { view, finalize } = await vegaEmbed(place, full, {
    mode: "vega-lite",
    actions: false,
    renderer,
    ast: true,
    tooltip,
    logLevel: 1,
    patch: unspoken,
  });
  if (views[id].turn !== turn) {
    finalize();
    place.remove();
    return;
  } // overtaken by a newer one
  views[id].finalize?.();
  for (const old of [...figure.querySelector(".plot").children]) if (old !== place) old.remove();
  Object.assign(views[id], { view, finalize });
  if (click) view.addEventListener("click", (_event, item) => item?.datum && click(item.datum));
  ready?.(view);
  figure.dataset.drawn = turn;
}

function unspoken(spec) {
  // the brush's rectangles say nothing to a screen reader
  const marks = (parts) =>
    parts.forEach((part) => {
      part.aria = !part.name?.startsWith("brush_") && part.aria !== false;
      marks(part.marks ?? []);
    });
  marks(spec.marks);
  return spec;
}

function tooltip(_handler, event, _item, value) {
  const tip = at("tip");
  tip.hidden = !value;
  if (!value) return;
  tip.textContent =
    typeof value === "object"
      ? Object.entries(value)
          .map(([k, v]) => `${k}: ${v}`)
          .join("\n")
      : value;
  const left = Math.min(event.pageX + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.cssText = `left:${Math.max(4, left)}px;top:${event.pageY + 16}px`;
}

const diverging = (limit, title) => ({
  domain: [-limit, limit],
  range: dark.matches ? ["#5aa2e0", "#30343a", "#ef7a6d"] : ["#2166ac", "#f7f7f7", "#b2182b"],
  type: "linear",
  interpolate: "lab",
  title,
});

// ---------------------------------------------------------------- layers, pairs

function drawLayers() {
  const kinds = { abs_cosine: "outputs", chance: "random read-outs: chance", untrained_abs_cosine: "untrained copies" };
  const rows = data.layers.flatMap((row, i) =>
    Object.entries(kinds)
      .filter(([key]) => (row[key] ?? null) !== null)
      .map(([key, kind]) => ({ i, layer: row.layer, kind, value: row[key] })),
  );
  const seen = Object.values(kinds).filter((kind) => rows.some((row) => row.kind === kind));
  const color = {
    field: "kind",
    type: "nominal",
    scale: { domain: seen, range: [colors()[1], colors()[0], colors()[9]] },
    legend: { title: null, labelLimit: 220, symbolType: "stroke", symbolStrokeWidth: 3, symbolOpacity: 1 },
  };
  const x = {
    field: "layer",
    type: "nominal",
    sort: data.layers.map((row) => row.layer),
    axis: { title: "layer", labelAngle: -35 },
  };
  const y = { field: "value", type: "quantitative", axis: { title: "mean |cosine|" }, scale: { zero: true } };
  const strokeDash = {
    field: "kind",
    type: "nominal",
    scale: {
      domain: seen,
      range: [
        [1, 0],
        [6, 4],
        [2, 3],
      ],
    },
    legend: color.legend,
  };
  const hover = [
    { field: "layer", title: "layer" },
    { field: "kind", title: "of" },
    { field: "value", title: "mean |cosine|", format: ".3f" },
  ];
  draw(
    "layers",
    {
      height: 200,
      data: { values: rows },
      description: "Mean absolute cosine at every layer beside chance; the numbers are in the table below.",
      encoding: { x },
      layer: [
        {
          transform: [{ filter: `datum.i == ${state.layer} && datum.kind == 'outputs'` }],
          mark: { type: "rule", aria: false, opacity: 0.2, strokeWidth: 16 },
        },
        { mark: "line", encoding: { y, color, strokeDash } },
        {
          mark: {
            type: "point",
            filled: true,
            size: 90,
            opacity: 1,
            cursor: "pointer",
            description: { expr: "datum.layer + ', ' + datum.kind + ': mean |cosine| ' + format(datum.value, '.2f')" },
          },
          encoding: { y, color, tooltip: hover },
        },
      ],
    },
    { rows, click: (row) => go({ layer: row.i }) },
  );
}

function drawMatrix() {
  const layer = data.layers[state.layer].layer;
  const names = data.outputs;
  const rows = names.flatMap((a, i) =>
    names.map((b, j) => ({
      layer,
      i,
      j,
      output: a,
      "and output": b,
      cosine: i === j ? null : data.matrices[layer][i][j],
      ...(data.control[layer] ? { untrained: data.control[layer][i][j] } : {}),
    })),
  );
  const limit = Math.max(0.05, ...rows.map((row) => Math.abs(row.cosine ?? 0)));
  const axis = (title) => ({
    title,
    labelLimit: 80,
    labelExpr: `${JSON.stringify(names)}[datum.value]`,
    values: names.map((_, i) => i),
  });
  const hover = [
    { field: "output" },
    { field: "and output" },
    { field: "cosine", format: ".3f", title: "mean cosine" },
  ];
  if (data.control[layer]) hover.push({ field: "untrained", format: ".3f", title: "untrained" });
  const chosen = `(datum.i == ${state.a} && datum.j == ${state.b}) || (datum.i == ${state.b} && datum.j == ${state.a})`;
  draw(
    "matrix",
    {
      height: 300,
      data: { values: rows },
      description: `Mean cosines of the gradients of all pairs of outputs at ${layer}; numbers: the table of all pairs.`,
      encoding: {
        x: { field: "j", type: "ordinal", sort: data.order, axis: axis("output") },
        y: { field: "i", type: "ordinal", sort: data.order, axis: axis("output") },
      },
      layer: [
        {
          mark: {
            type: "rect",
            cursor: "pointer",
            description: {
              expr: "datum.output + ' and ' + datum['and output'] + ': mean cosine ' + format(datum.cosine, '.2f')",
            },
          },
          encoding: {
            tooltip: hover,
            color: {
              field: "cosine",
              type: "quantitative",
              scale: diverging(limit),
              legend: { title: "mean cosine", gradientLength: 160 },
            },
          },
        },
        {
          transform: [{ filter: chosen }],
          mark: { type: "rect", aria: false, filled: false, stroke: theme().text.color, strokeWidth: 2.5 },
        },
      ],
    },
    { rows, click: (row) => row.i !== row.j && go({ a: row.i, b: row.j }) },
  );
}

function pairAtSamples() {
  const [a, b] = [Math.min(state.a, state.b), Math.max(state.a, state.b)];
  const u = data.outputs.length;
  const place = a * u - (a * (a + 1)) / 2 + b - a - 1; // of the pair in the upper triangle
  const layer = data.layers[state.layer].layer;
  const all = ((data.pairs.unpacked ??= {})[layer] ??= unpack(data.pairs.cosines[layer], Int8Array));
  const n = data.pairs.at.length;
  return data.pairs.at.map((sample, k) => {
    const cosine = all[place * n + k];
    return {
      sample,
      index: data.samples.index[sample],
      ...(data.samples.class ? { class: data.samples.class[sample] } : {}),
      a: data.pairs.values[state.a][k],
      b: data.pairs.values[state.b][k],
      cosine: cosine === -128 ? null : cosine / 127,
    };
  });
}

function drawPair() {
  const [a, b] = [data.outputs[state.a], data.outputs[state.b]];
  const rows = pairAtSamples();
  const hover = [
    { field: "index", title: "sample" },
    { field: "a", title: a.slice(0, 20), format: ".3g" },
    { field: "b", title: b.slice(0, 20), format: ".3g" },
    { field: "cosine", format: ".2f" },
  ];
  if (data.samples.class) hover.unshift({ field: "class" });
  const axis = (title) => ({ title, titleLimit: 240 });
  draw(
    "pair",
    {
      height: 300,
      data: { values: rows },
      description: `Values of outputs ${a} and ${b} at the samples, colored by the cosine of their gradients.`,
      encoding: {
        x: { field: "a", type: "quantitative", axis: axis(`value of output ${a}`), scale: { zero: false } },
        y: { field: "b", type: "quantitative", axis: axis(`value of output ${b}`), scale: { zero: false } },
      },
      layer: [
        {
          mark: {
            type: "point",
            filled: true,
            size: 50,
            opacity: 1,
            strokeWidth: 0.5,
            stroke: theme().axis.tickColor,
            cursor: "pointer",
            description: { expr: `'sample ' + datum.index + ': cosine ' + format(datum.cosine, '.2f')` },
          },
          encoding: {
            tooltip: hover,
            color: {
              field: "cosine",
              type: "quantitative",
              scale: diverging(1),
              legend: { title: "cosine", gradientLength: 160 },
            },
          },
        },
        {
          transform: [{ filter: `datum.sample === ${state.sample}` }],
          mark: { type: "point", aria: false, size: 220, strokeWidth: 3, color: theme().text.color },
        },
      ],
    },
    { rows, click: (row) => go({ sample: row.sample }) },
  );
  const sorted = rows.filter((row) => row.cosine !== null).sort((one, other) => one.cosine - other.cosine);
  list(
    "lowest",
    sorted.slice(0, 8).filter((row) => row.cosine < 0),
    (row) => number(row.cosine),
  );
  list(
    "highest",
    sorted
      .slice(-8)
      .filter((row) => row.cosine > 0)
      .reverse(),
    (row) => number(row.cosine),
  );
}

// ---------------------------------------------------------------- samples as pictures

function picture(sample, scale) {
  const sheet = data.samples.picture;
  if (!sheet || sample >= sheet.n) return "";
  const [w, h] = [sheet.width * scale, sheet.height * scale];
  const [x, y] = [(sample % sheet.columns) * w, Math.floor(sample / sheet.columns) * h];
  const span = make("span", { class: "picture", "aria-hidden": "true" });
  span.style.cssText =
    `width:${w}px;height:${h}px;background-image:url(${sheet.data});background-position:-${x}px -${y}px;` +
    `background-size:${sheet.columns * w}px ${sheet.rows * h}px`;
  return span;
}

function list(id, rows, words = () => "") {
  const scale = data.samples.picture ? Math.max(1, Math.round(56 / data.samples.picture.width)) : 1;
  at(id).replaceChildren(
    ...rows.map((row) => {
      const kind = data.samples.class ? `${data.samples.class[row.sample]}, ` : "";
      const name = `${kind}no. ${data.samples.index[row.sample]}`;
      return make(
        "li",
        {},
        make(
          "button",
          {
            type: "button",
            "aria-pressed": String(row.sample === state.sample),
            onclick: () => go({ sample: row.sample }),
          },
          picture(row.sample, scale),
          name,
          ...(words(row) ? [make("br"), words(row)] : []),
        ),
      );
    }),
  );
  if (!rows.length) at(id).append(make("li", {}, "none"));
}

// ---------------------------------------------------------------- branches

function drawBranches() {
  const layers = Object.keys(data.tree.nodes);
  const m = data.tree.at.length;
  const tables = layers.map((layer) =>
    ((data.tree.unpacked ??= {})[layer] ??= unpack(data.tree.nodes[layer], Uint16Array)).subarray(
      state.root * m,
      (state.root + 1) * m,
    ),
  );
  let [depth, node] = state.branch ? state.branch.split(".").map(Number) : [0, null];
  const every = [...Array(m).keys()];
  let members = node === null ? every : every.filter((k) => tables[depth]?.[k] === node);
  if (!members.length) [depth, node, members] = [0, null, every];
  members.sort((k, l) => {
    // boxes of one parent side by side, the largest first: nodes are numbered by size
    for (const table of tables) if (table[k] !== table[l]) return table[k] - table[l];
    return k - l;
  });
  const rows = [];
  for (let row = depth; row < layers.length; row++) {
    for (let i = 0; i < members.length;) {
      const own = tables[row][members[i]];
      let end = i;
      while (end < members.length && tables[row][members[end]] === own) end++;
      rows.push({
        layer: layers[row],
        depth: row,
        node: own,
        from: i,
        to: end,
        samples: end - i,
        kind: rows.length % 2,
      });
      i = end;
    }
  }
  const hover = [{ field: "layer" }, { field: "samples" }];
  draw(
    "branches",
    {
      height: 46 * (layers.length - depth),
      data: { values: rows },
      description: `Branches of output ${data.tree.roots[state.root]}: ${layers
        .slice(depth)
        .map((layer) => `${rows.filter((row) => row.layer === layer).length} at ${layer}`)
        .join(", ")}.`,
      mark: {
        type: "rect",
        stroke: getComputedStyle(document.body).backgroundColor,
        strokeWidth: members.length > 200 ? 0.3 : 1,
        cursor: "pointer",
        description: { expr: "datum.layer + ': a branch of ' + datum.samples + ' samples'" },
      },
      encoding: {
        x: {
          field: "from",
          type: "quantitative",
          axis: { title: "samples", format: "d", tickMinStep: 1 },
          scale: { domain: [0, members.length], nice: false },
        },
        x2: { field: "to" },
        y: {
          field: "layer",
          type: "ordinal",
          sort: layers,
          axis: { title: null, labelLimit: 110 },
          scale: { paddingInner: 0.1 },
        },
        color: { field: "kind", type: "nominal", legend: null, scale: { range: [colors()[6], colors()[4]] } },
        tooltip: hover,
      },
    },
    { rows, click: (row) => go({ branch: `${row.depth}.${row.node}` }) },
  );
  at("up").disabled = node === null;
  at("up").onclick = () => go({ branch: depth > 0 ? `${depth - 1}.${tables[depth - 1][members[0]]}` : "" });
  const below = rows
    .filter((row) => row.depth === (node === null ? depth : depth + 1))
    .sort((one, other) => other.samples - one.samples);
  at("down").replaceChildren(
    make("option", { value: "" }, "choose"),
    ...below
      .slice(0, MOST_LISTED)
      .map((row, i) =>
        make("option", { value: `${row.depth}.${row.node}` }, `no. ${i + 1} at ${row.layer}, ${row.samples} samples`),
      ),
  );
  at("branch").textContent =
    node === null ? `All ${m} samples` : `A branch at '${layers[depth]}': ${members.length} of ${m} samples`;
  list(
    "members",
    members.slice(0, MOST_LISTED).map((k) => ({ sample: data.tree.at[k] })),
  );
  if (members.length > MOST_LISTED) at("members").append(make("li", {}, `and ${members.length - MOST_LISTED} more`));
}

// ---------------------------------------------------------------- units

const units = data.units;

function unitWords(i) {
  const words = [units.name[i]];
  if (units.distance)
    words.push(
      `nearest ${data.n_networks > 1 ? "elsewhere" : "other"}: ${units.name[units.nearest[i][0]]}`,
      `at ${size(units.distance[i][0])}, null ${size(units.null[i])}`,
    );
  return words.join("\n");
}

function point(i) {
  const [x, y] = units.layout[i];
  const color = {
    network: `net ${units.network[i]}`,
    layer: units.is_output?.[i] ? "output" : "hidden",
    label: units.label?.[i],
    class: units.favored ? data.classes[units.favored[i]] : "",
    distance: units.distance ? Math.min(1.5, units.distance[i][0] / units.null[i]) : 0,
  }[state.colors];
  return { i, x, y, color, kind: units.is_output?.[i] ? "output" : "hidden", words: unitWords(i) };
}

function colorings() {
  const found = [];
  if (data.n_networks > 1) found.push(["network", "network"]);
  if (units.is_output) found.push(["layer", "hidden unit or output"]);
  if (units.label && new Set(units.label).size <= PALETTE.length) found.push(["label", "label"]);
  if (units.favored && data.classes.length <= PALETTE.length) found.push(["class", "class of its highest mean value"]);
  if (units.distance) found.push(["distance", "distance to the nearest, in units of the null"]);
  return found;
}

function drawEmbedding() {
  const rows = units.name.map((_, i) => point(i));
  const many = rows.length > 1000;
  const isNumber = state.colors === "distance";
  const title = Object.fromEntries(colorings())[state.colors];
  const names = isNumber
    ? null
    : state.colors === "class"
      ? data.classes
      : [...new Set(rows.map((row) => row.color))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const color = {
    field: "color",
    type: isNumber ? "quantitative" : "nominal",
    legend: { title, titleLimit: 300, gradientLength: 160 },
    scale: isNumber ? { domain: [0, 1, 1.5], range: [colors()[2], colors()[3], colors()[1]] } : { domain: names },
  };
  const mark = {
    type: "point",
    filled: true,
    opacity: many ? 0.55 : 0.9,
    size: many ? 14 : 60,
    cursor: "pointer",
    description: { expr: "datum.words" },
  };
  const axis = (name) => ({ title: name, labels: false, ticks: false, grid: false });
  draw(
    "embedding",
    {
      height: 380,
      description: `${rows.length} units in two dimensions; search for a unit by its name to open its card.`,
      datasets: { points: rows, marked: [] },
      encoding: {
        x: { field: "x", type: "quantitative", axis: axis("principal component 1") },
        y: { field: "y", type: "quantitative", axis: axis("principal component 2") },
      },
      layer: [
        {
          data: { name: "points" },
          params: [{ name: "brush", select: { type: "interval" } }],
          mark,
          encoding: {
            color,
            tooltip: { field: "words" },
            shape: {
              field: "kind",
              type: "nominal",
              legend: null,
              scale: { domain: ["hidden", "output"], range: ["circle", "square"] },
            },
          },
        },
        {
          data: { name: "marked" },
          mark: { type: "point", aria: false, size: 160, strokeWidth: 2.5, color: theme().text.color },
          encoding: {
            strokeDash: {
              field: "kind",
              type: "nominal",
              legend: null,
              scale: {
                domain: ["unit", "nearest"],
                range: [
                  [1, 0],
                  [3, 2],
                ],
              },
            },
          },
        },
      ],
    },
    {
      rows: rows.map(({ words, ...row }) => ({ name: units.name[row.i], ...row })),
      renderer: many ? "canvas" : "svg",
      click: (row) => row.i !== undefined && go({ unit: row.i }),
      ready: (view) => {
        ring(view);
        let asked = 0;
        view.addSignalListener("brush", (_name, area) => {
          cancelAnimationFrame(asked);
          asked = requestAnimationFrame(() => brushed(area));
        });
      },
    },
  );
}

function ring(view = views.embedding?.view) {
  if (!view) return;
  const near = state.unit === null || !units.nearest ? [] : units.nearest[state.unit];
  const values = (state.unit === null ? [] : [state.unit, ...near]).map((i, k) => ({
    x: units.layout[i][0],
    y: units.layout[i][1],
    kind: k ? "nearest" : "unit",
    i,
  }));
  view.data("marked", values).runAsync();
}

function brushed(area) {
  const place = at("brushed");
  if (!area?.x || !area?.y) {
    place.replaceChildren();
    return;
  }
  const [[x0, x1], [y0, y1]] = [area.x, area.y].map((ends) => [Math.min(...ends), Math.max(...ends)]);
  const inside = [];
  units.layout.forEach(([x, y], i) => {
    if (x >= x0 && x <= x1 && y >= y0 && y <= y1) inside.push(i);
  });
  const counts = Array(data.n_networks).fill(0);
  for (const i of inside) counts[units.network[i]]++;
  const shares = data.n_networks > 1 ? ` (${counts.map((count, k) => `net ${k}: ${count}`).join(", ")})` : "";
  place.replaceChildren(
    make("h3", {}, `${inside.length} units in the area${shares}`),
    make("ul", { class: "found" }, ...inside.slice(0, MOST_LISTED).map(unitButton)),
    make(
      "p",
      { class: "note" },
      inside.length > MOST_LISTED ? `and ${inside.length - MOST_LISTED} more ` : "",
      make(
        "button",
        { type: "button", onclick: () => save("units.csv", unitTable(inside), "text/csv") },
        "CSV of these units",
      ),
    ),
  );
}

function unitTable(chosen) {
  const columns = [
    "network",
    "low",
    "mean",
    "high",
    "dimension",
    "silent",
    "null",
    "nearer",
    "median",
    "untrained",
  ].filter((name) => units[name]);
  return records(
    chosen.map((i) => ({
      unit: units.name[i],
      ...Object.fromEntries(columns.map((name) => [name, units[name][i]])),
      ...(units.nearest ? { nearest: units.name[units.nearest[i][0]], distance: units.distance[i][0] } : {}),
    })),
  );
}

const unitButton = (i) =>
  make("li", {}, make("button", { type: "button", onclick: () => go({ unit: i }) }, units.name[i]));

function search() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  if (words.length)
    units.name.forEach((name, i) => {
      if (words.every((word) => name.toLowerCase().includes(word))) found.push(i);
    });
  at("found").replaceChildren(...found.slice(0, MOST_LISTED).map(unitButton));
  if (found.length > MOST_LISTED)
    at("found").append(make("li", { class: "note" }, `and ${found.length - MOST_LISTED} more`));
  if (words.length) at("status").textContent = `${found.length} units found`;
  if (words.length && !found.length) at("found").append(make("li", {}, "no unit has such a name"));
}

function card() {
  const i = state.unit;
  const place = at("card");
  if (i === null) {
    place.replaceChildren(make("p", {}, "Choose a unit in the picture or by its name: its card appears here."));
    return;
  }
  const m = data.samples.index.length;
  const parts = [
    make("h3", {}, units.name[i]),
    make(
      "p",
      {},
      `Values from ${size(units.low[i])} to ${size(units.high[i])}, mean ${size(units.mean[i])}. Its gradient is spread ` +
        "over " +
        `${number(units.dimension[i], 1)} directions and is zero at ${units.silent[i]} samples.`,
    ),
  ];
  if (units.nearest) {
    const [distance, chance] = [units.distance[i][0], units.null[i]];
    parts.push(
      make("h4", {}, data.n_networks > 1 ? "Nearest units in other networks" : "Nearest other units"),
      make(
        "p",
        {},
        `The nearest lies at ${size(distance)}, ${number(distance / chance)} of the null, ${size(chance)}: the median ` +
          "distance to the nearest of as many random units with the same mean and covariance, which is farther in " +
          `${number(100 * units.nearer[i], 0)}% of draws. The median candidate lies at ${size(units.median[i])}` +
          (units.untrained ? `, the nearest of an untrained copy at ${size(units.untrained[i])}.` : "."),
      ),
      table(
        ["unit", "distance", "÷ null", "cosine", "correlation of values"],
        units.nearest[i].map((j, k) => [
          make("button", { type: "button", onclick: () => go({ unit: j }) }, units.name[j]),
          size(units.distance[i][k]),
          number(units.distance[i][k] / chance),
          number(units.cosine[i][k]),
          number(units.correlation[i][k]),
        ]),
        `Nearest units of ${units.name[i]}`,
      ),
    );
  }
  if (units.aligned[i]?.length)
    parts.push(
      make("h4", {}, "Units of its own network with the most aligned gradients"),
      make(
        "ul",
        { class: "found" },
        ...units.aligned[i].map((j, k) =>
          make(
            "li",
            {},
            make(
              "button",
              { type: "button", onclick: () => go({ unit: j }) },
              `${units.name[j]}: ${number(units.aligned_cosine[i][k])}`,
            ),
          ),
        ),
      ),
    );
  parts.push(make("h4", {}, "Samples with its highest values"), make("ol", { class: "samples", id: "top" }));
  place.replaceChildren(...parts);
  list(
    "top",
    units.top[i].filter((sample) => sample < m).map((sample) => ({ sample })),
  );
}

function table(head, rows, name) {
  return make(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": name },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...head.map((word) => make("th", { scope: "col" }, word)))),
      make(
        "tbody",
        {},
        ...rows.map((row) =>
          make("tr", {}, ...row.map((cell, k) => make(k ? "td" : "th", k ? {} : { scope: "row" }, cell))),
        ),
      ),
    ),
  );
}

// ---------------------------------------------------------------- arrow keys

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function keys(id, move) {
  at(id)
    ?.querySelector(".plot")
    .addEventListener("keydown", (event) => {
      if (!ARROWS[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault(); // no scrolling
      go(move(...ARROWS[event.key]), { keep: false });
    });
}

function nextPair(right, down) {
  let [row, column] = [state.a, state.b].map((unit) => data.order.indexOf(unit));
  do [row, column] = [row + down, column + right];
  while (row === column);
  const [a, b] = [data.order[row], data.order[column]];
  return a === undefined || b === undefined ? {} : { a, b };
}

function beside(places, from, right, down) {
  // the nearest point within 45 degrees of the arrow, as the picture is drawn
  if (from < 0) return 0;
  const spans = [0, 1].map((k) => {
    const ends = places.reduce(([low, high], place) => [Math.min(low, place[k]), Math.max(high, place[k])], [
      Infinity,
      -Infinity,
    ]);
    return ends[1] - ends[0] || 1;
  });
  let [found, shortest] = [from, Infinity];
  places.forEach((place, i) => {
    const [x, y] = [0, 1].map((k) => (place[k] - places[from][k]) / spans[k]);
    const [ahead, aside] = right ? [x * right, y] : [-y * down, x];
    const distance = ahead ** 2 + aside ** 2;
    if (ahead > 0 && ahead >= Math.abs(aside) && distance < shortest) [found, shortest] = [i, distance];
  });
  return found;
}

function nextSample(right, down) {
  const rows = pairAtSamples().filter((row) => row.cosine !== null); // those that are drawn
  const from = rows.findIndex((row) => row.sample === state.sample);
  const places = rows.map((row) => [row.a, row.b]);
  return { sample: rows[beside(places, from, right, down)]?.sample ?? state.sample };
}

// ---------------------------------------------------------------- all of it

const PARTS = [
  // what each is drawn from, and how
  [["layer"], () => data.matrices && drawLayers()],
  [["layer", "a", "b"], () => data.matrices && drawMatrix()],
  [["layer", "a", "b", "sample"], () => data.pairs && drawPair()],
  [["root", "branch", "sample"], () => data.tree && drawBranches()],
  [["colors"], () => units?.layout && drawEmbedding()],
  [["unit"], () => units?.layout && ring()],
  [["unit", "sample"], () => units && card()],
  [["q"], () => units && search()],
];

function show(next, everything = false) {
  const before = state;
  state = next;
  for (const [names, part] of PARTS) if (everything || names.some((name) => next[name] !== before[name])) part();
  for (const name of ["layer", "a", "b", "root", "colors"]) if (at(name)) at(name).value = String(state[name]);
  if (at("search") && at("search").value !== state.q) at("search").value = state.q;
  if (everything) return;
  if (next.unit !== before.unit && next.unit !== null) at("status").textContent = `Card of ${unitWords(next.unit)}`;
  else if (next.sample !== before.sample && next.sample !== null) {
    const row = data.pairs && pairAtSamples().find(({ sample }) => sample === next.sample);
    const cosine = row ? `, cosine ${number(row.cosine)}` : "";
    at("status").textContent = `Sample ${data.samples.index[next.sample]}${cosine}`;
  } else if (["layer", "a", "b"].some((name) => next[name] !== before[name])) {
    const layer = data.layers[state.layer].layer;
    at("status").textContent =
      `Outputs ${data.outputs[state.a]} and ${data.outputs[state.b]} at ${layer}: mean cosine ` +
      number(data.matrices[layer][state.a][state.b]);
  }
}

function choices(id, names, change) {
  at(id)?.replaceChildren(...names.map(([value, name]) => make("option", { value }, name)));
  at(id)?.addEventListener("change", () => go(change(at(id).value)));
}

function begin() {
  if (data.matrices) {
    // the pair that opposes most comes first, as in what was found
    const rows = Object.values(data.matrices)[0];
    data.outputs.forEach((_, i) =>
      rows.slice(i + 1).forEach((_row, j) => {
        if (rows[i][i + 1 + j] < rows[start.a][start.b]) [start.a, start.b] = [i, i + 1 + j];
      }),
    );
  }
  const outputs = data.outputs.map((name, i) => [i, name]);
  choices(
    "layer",
    data.layers.map((row, i) => [i, row.layer]),
    (value) => ({ layer: Number(value) }),
  );
  const pair = (one, other) => (value) => ({
    [one]: Number(value),
    ...(Number(value) === state[other] ? { [other]: state[one] } : {}),
  });
  choices("a", outputs, pair("a", "b"));
  choices("b", outputs, pair("b", "a"));
  choices("root", data.tree?.roots.map((name, i) => [i, name]) ?? [], (value) => ({ root: Number(value), branch: "" }));
  at("down")?.addEventListener("change", () => go({ branch: at("down").value }));
  if (units) {
    choices("colors", colorings(), (value) => ({ colors: value }));
    start.colors = colorings()[0]?.[0] ?? "";
    at("search").addEventListener("input", () => go({ q: at("search").value }, { keep: false }));
    at("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") at("found").querySelector("button")?.click();
    });
  }
  keys("layers", (right) => ({ layer: Math.max(0, Math.min(data.layers.length - 1, state.layer + right)) }));
  keys("matrix", nextPair);
  keys("pair", nextSample);
  keys("embedding", (right, down) => ({ unit: beside(units.layout, state.unit ?? -1, right, down) }));
  for (const figure of document.querySelectorAll("main figure")) tools(figure);
  for (const link of document.querySelectorAll("nav a"))
    link.addEventListener("click", (event) => {
      event.preventDefault(); // the address is the state's
      const title = document.querySelector(link.getAttribute("href"));
      title.setAttribute("tabindex", "-1");
      title.focus({ preventScroll: true });
      title.scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
    });
  addEventListener("hashchange", () => show(read()));
  dark.addEventListener("change", () => show(state, true));
  show(read(), true);
}

function tools(figure) {
  const own = figure.querySelector("table");
  if (own)
    figure
      .querySelector("figcaption")
      .append(" ", make("span", { class: "tools" }, make("button", { type: "button", "data-save": "csv" }, "CSV")));
  const name = figure.id || own?.getAttribute("aria-label").toLowerCase().replaceAll(/\W+/g, "-");
  for (const button of figure.querySelectorAll("[data-save]")) {
    button.setAttribute("aria-label", `Save ${name} as ${button.dataset.save.toUpperCase()}`);
    button.addEventListener("click", async () => {
      if (button.dataset.save === "svg") save(`${name}.svg`, await views[name].view.toSVG(), "image/svg+xml");
      else
        save(
          `${name}.csv`,
          own
            ? csv([...own.rows].map((row) => [...row.cells].map((cell) => cell.textContent)))
            : records(views[name].rows),
          "text/csv",
        );
    });
  }
}

begin();
