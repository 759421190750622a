// One chart: drawn once, then updated in place. Charts of a group share their zoom and their crosshair along x.

const shared = (window.__fleetPlots ??= { library: null, groups: new Map() });

function library(url) {
  shared.library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => { shared.library = null; reject(new Error("plotly.js did not load")); };
    document.head.appendChild(script);
  });
  return shared.library;
}

function group(name) {
  if (!shared.groups.has(name)) shared.groups.set(name, { nodes: new Set(), zoom: null, window: null, busy: false });
  return shared.groups.get(name);
}

function themed(layout, host) {
  const style = getComputedStyle(host);
  for (const note of layout.annotations ?? []) if (note.name === "limit") note.bgcolor = panel(style);
  const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const text = read("--st-text-color", style.color);
  const background = read("--st-secondary-background-color", "#fff");
  const grid = read("--st-border-color", "rgba(128,128,128,0.25)");
  const faint = `color-mix(in srgb, ${text} 72%, ${background})`;
  const resolved = resolveColor(host, faint);
  layout.font = { ...layout.font, color: resolved, family: style.fontFamily };
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: background, bordercolor: grid, font: { color: text, family: style.fontFamily } };
  for (const [name, axis] of Object.entries(layout)) {
    if (!/^[xy]axis\d*$/.test(name)) continue;
    axis.gridcolor = grid;
    axis.linecolor = grid;
    axis.zerolinecolor = grid;
    axis.spikecolor = resolved;
  }
  return layout;
}

function resolveColor(host, expression) {
  const probe = document.createElement("span");
  probe.style.color = expression;
  host.appendChild(probe);
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = getComputedStyle(probe).color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
  probe.remove();
  return `rgb(${r},${g},${b})`;
}

// Colours that carry text or a thin line need another shade on a dark page; identities stay as they are.
const LIGHTER = { "#b3261e": "#ff8a80", "#8a5a00": "#e8b04a", "#6b4f9e": "#b9a3e3", "#1f618d": "#7fb8e6", "#5b6b82": "#a9b6c8" };

function shaded(text, host) {
  if (getComputedStyle(host.closest(".stApp") ?? host).colorScheme !== "dark") return text;
  return Object.entries(LIGHTER).reduce((all, [from, to]) => all.replaceAll(from, to), text);
}

function panel(style) {
  return style.getPropertyValue("--st-secondary-background-color").trim() || "rgba(0,0,0,0)";
}

function timeAxes(layout) {
  return Object.keys(layout).filter((name) => /^xaxis\d*$/.test(name));
}

function crosshair(node, pageFraction) {
  const line = node.querySelector(":scope > .fleet-crosshair");
  if (!line) return;
  const size = node._fullLayout?._size;
  if (pageFraction === null || !size) { line.style.display = "none"; return; }
  line.style.display = "block";
  line.style.left = `${size.l + pageFraction * size.w}px`;
  line.style.top = `${size.t}px`;
  line.style.height = `${size.h}px`;
}

function applyZoom(Plotly, node, zoom) {
  const change = {};
  for (const name of timeAxes(node.layout)) change[`${name}.range`] = zoom ?? node.__window;
  return Plotly.relayout(node, change);
}

function wire(Plotly, node, name) {
  if (name) {
    const set = group(name);
    set.nodes.add(node);
    node.on("plotly_relayout", (event) => {
      if (set.busy) return;
      const from = event["xaxis.range[0]"] ?? event["xaxis.range"]?.[0];
      const to = event["xaxis.range[1]"] ?? event["xaxis.range"]?.[1];
      const reset = Object.keys(event).some((key) => /^xaxis\d*\.autorange$/.test(key));
      if (from === undefined && !reset) return;
      set.zoom = reset ? null : [from, to];
      set.busy = true;
      Promise.all([...set.nodes].filter((other) => reset || other !== node).map((other) => applyZoom(Plotly, other, set.zoom)))
        .finally(() => { set.busy = false; });
    });
    node.on("plotly_hover", (event) => {
      const axis = event.points?.[0]?.xaxis;
      const size = node._fullLayout?._size;
      if (!axis || !size) return;
      const fraction = axis.d2p(event.points[0].x) / axis._length;
      for (const other of set.nodes) if (other !== node) crosshair(other, fraction);
    });
    node.on("plotly_unhover", () => { for (const other of set.nodes) crosshair(other, null); });
  }
  node.on("plotly_click", (event) => {
    const chosen = event.points?.map((point) => point.customdata).find((value) => value !== undefined && value !== null);
    if (chosen !== undefined) node.__pick?.(String(Array.isArray(chosen) ? chosen[0] : chosen));
  });
}

async function draw(host, node, data) {
  const Plotly = await library(data.plotly);
  if (!host.isConnected) return;
  const figure = JSON.parse(shaded(data.figure, host));
  const layout = themed(figure.layout, host);
  node.__window = layout.xaxis?.range ? [...layout.xaxis.range] : null;
  if (data.group) {
    const set = group(data.group);
    if (set.window !== layout.uirevision) { set.window = layout.uirevision; set.zoom = null; }
    if (set.zoom) for (const name of timeAxes(layout)) layout[name].range = [...set.zoom];
  }
  const config = {
    displaylogo: false, responsive: false, scrollZoom: false, doubleClick: data.group ? "autosize" : "reset",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d"],
    toImageButtonOptions: { filename: data.alt.slice(0, 60).replace(/\W+/g, "-"), scale: 2 },
  };
  await Plotly.react(node, figure.data, layout, config);
  if (!node.__wired) { node.__wired = true; wire(Plotly, node, data.group); }
  node.dataset.drawn = "yes";
}

export default function ({ data, parentElement, setTriggerValue }) {
  let node = parentElement.querySelector(":scope .fleet-plot");
  if (!node) {
    node = document.createElement("div");
    node.className = "fleet-plot";
    node.setAttribute("role", "figure");
    const line = document.createElement("div");
    line.className = "fleet-crosshair";
    node.appendChild(line);
    parentElement.appendChild(node);
  }
  node.setAttribute("aria-label", data.alt);
  node.style.height = `${JSON.parse(data.figure).layout.height}px`;
  node.__pick = (value) => setTriggerValue("picked", value);
  draw(parentElement, node, data).catch((error) => { node.dataset.failed = error.message; node.textContent = `This chart could not be drawn: ${error.message}`; });
  if (!node.__observer) {
    node.__observer = new ResizeObserver(() => {
      if (node.__wired && node.offsetWidth) window.Plotly.Plots.resize(node);
    });
    node.__observer.observe(node);
  }
  return () => {
    if (node.isConnected) return;
    node.__observer?.disconnect();
    if (data.group) group(data.group).nodes.delete(node);
    if (node.__wired) window.Plotly.purge(node);
  };
}
