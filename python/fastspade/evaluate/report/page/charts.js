// Curves and histogram, drawn by plotly in the page's colours.
function layout(xTitle, yTitle, more = {}) {
  const axis = { color: themeColor("--ink"), gridcolor: themeColor("--line"), zeroline: false, automargin: true };
  return {
    margin: { l: 44, r: 8, t: 8, b: 36 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: themeColor("--ink"), size: 12 },
    xaxis: { ...axis, title: { text: xTitle } },
    yaxis: { ...axis, title: { text: yTitle } },
    legend: { x: 0.98, y: 0.04, xanchor: "right", yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    ...more,
  };
}

function draw(id, traces, drawn, text) {
  const place = byId(id);
  place.setAttribute("aria-label", text);
  if (!traces.length) {
    Plotly.purge(place);
    place.classList.add("empty");
    place.textContent = text;
    return;
  }
  if (place.classList.contains("empty")) {
    place.classList.remove("empty");
    place.textContent = "";
  }
  Plotly.react(place, traces, drawn, { responsive: true, displayModeBar: false });
}

function line(curve, name, color, dash) {
  return { x: curve.x, y: curve.y, name, mode: "lines", line: { color, dash, width: 2 } };
}

function drawCurves() {
  const category = current();
  const rate = "false-positive rate";
  const image = category.metrics.image.image_roc_auc;
  const imageTraces = category.imageCurve.x ? [line(category.imageCurve, "images", themeColor("--accent"), "solid")] : [];
  draw("chart-image", imageTraces, layout(rate, "true-positive rate"),
    image.value === null ? image.reason : `Image ROC curve, area ${percent(image)} %`);
  for (const [id, kind, metric, title] of [["chart-pixel", "roc", "pixel_roc_auc", "true-positive rate"], ["chart-pro", "pro", "pro", "mean overlap of regions"]]) {
    const traces = [];
    const texts = [];
    protocols.forEach((protocol, i) => {
      const curve = (category.pixelCurves[protocol] || {})[kind];
      const value = category.metrics[protocol][metric];
      texts.push(value.value === null ? value.reason : `${protocol}: ${percent(value)} %`);
      if (curve) traces.push(line(curve, protocol, themeColor(i ? "--accent" : "--ink"), i ? "solid" : "dot"));
    });
    const limit = data.about.pro_fpr_limit;
    const shown = kind === "pro" ? { shapes: [verticalLine(limit)], xaxis: { ...layout(rate).xaxis, range: [0, Math.min(1, 1.5 * limit)] } } : {};
    draw(id, traces, layout(rate, title, shown), [...new Set(texts)].join("; "));
  }
}

function verticalLine(x) {
  return { type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: themeColor("--ink"), width: 2, dash: "dash" } };
}

function drawScores() {
  const category = current();
  const [low, high] = category.range;
  const size = (high - low) / 24 || 1;
  const traces = [["good", "--good", (image) => image.kind === "good"], ["defect", "--bad", (image) => image.kind !== "good"]].map(
    ([name, color, chosen]) => ({
      type: "histogram",
      name,
      x: category.images.filter(chosen).map((image) => image.score),
      xbins: { start: low, end: high + size, size },
      marker: { color: themeColor(color) },
      opacity: 0.7,
    }));
  draw("chart-scores", traces, layout("image score", "images", {
    barmode: "overlay",
    shapes: [verticalLine(category.set.image)],
    legend: { x: 0.98, y: 0.98, xanchor: "right", yanchor: "top", bgcolor: "rgba(0,0,0,0)" },
  }), `Histogram of image scores; threshold ${short(category.set.image)}`);
}

function moveThresholdLine() {
  const place = byId("chart-scores");
  Plotly.relayout(place, { shapes: [verticalLine(current().set.image)] });
  place.setAttribute("aria-label", `Histogram of image scores; threshold ${short(current().set.image)}`);
}
