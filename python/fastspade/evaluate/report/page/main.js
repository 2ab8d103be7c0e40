// Ties the parts together: category, protocol, thresholds, theme.
function rates() {
  const category = current();
  const count = { right: 0, missed: 0, alarm: 0 };
  for (const image of category.images) count[verdict(image)] += 1;
  const called = category.images.filter((image) => image.score > category.set.image).length;
  byId("verdicts").textContent = `${called} of ${category.images.length} called defects: ${count.right} right, ${
    count.missed} missed, ${count.alarm} false alarms`;
  byId("image-threshold-value").textContent = short(category.set.image);
}

function maskRates() {
  const category = current();
  byId("pixel-threshold-value").textContent = short(category.set.pixel);
  const first = thresholdLevel(category);
  const share = (counts) => counts.slice(first).reduce((a, b) => a + b, 0) / counts.reduce((a, b) => a + b, 0);
  const { defect, normal } = category.counts256;
  byId("mask-rates").textContent = defect.some(Boolean)
    ? `masked: ${(100 * share(defect)).toFixed(1)} % of defect pixels, ${(100 * share(normal)).toFixed(2)} % of the others (in the crop)`
    : "no ground-truth masks to compare with";
}

function setSlider(id, low, high, value) {
  Object.assign(byId(id), { min: low, max: high, step: (high - low) / 1000 || 1 });
  byId(id).value = value;
}

function showThresholds() {
  const category = current();
  // The ends reach a little beyond, so that everything and nothing can be called a defect.
  for (const [id, [low, high], value] of [
    ["image-threshold", category.range, category.set.image],
    ["pixel-threshold", category.scale, category.set.pixel],
  ]) {
    const margin = (high - low) / 100;
    setSlider(id, Math.min(low - margin, value), Math.max(high + margin, value), value);
  }
  rates();
  maskRates();
}

async function selectCategory(i) {
  state.category = i;
  const category = current();
  byId("category").value = i;
  byId("category-title").textContent = category.name;
  drawSummary();
  fillKinds();
  await unpack(category);
  if (current() !== category) return;
  paintColorbar();
  showThresholds();
  drawCurves();
  drawScores();
  drawGallery();
  document.documentElement.dataset.ready = category.name;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
  drawCurves();
  drawScores();
  repaint("mask", "truth");
}

byId("image-threshold").addEventListener("input", (event) => {
  current().set.image = Number(event.target.value);
  rates();
  moveThresholdLine();
  updateVerdicts();
});
byId("pixel-threshold").addEventListener("input", (event) => {
  current().set.pixel = Number(event.target.value);
  maskRates();
  repaintMasks();
});
byId("reset").addEventListener("click", () => {
  current().set = { ...current().start };
  showThresholds();
  moveThresholdLine();
  updateVerdicts();
  repaintMasks();
});
for (const id of ["sort", "kind", "verdict"]) byId(id).addEventListener("change", drawGallery);
byId("text").addEventListener("input", drawGallery);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("category").addEventListener("change", (event) => selectCategory(Number(event.target.value)));
byId("protocol").addEventListener("change", (event) => {
  state.protocol = event.target.value;
  drawSummary();
});

const dark = matchMedia("(prefers-color-scheme: dark)");
document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
byId("theme").setAttribute("aria-pressed", String(dark.matches));
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

const { about } = data;
byId("about").textContent = `${about.dataset} (${about.layout} layout), preset ${about.options.preset}, backbone ${about.backbone.name}, K = ${about.options.k}, kappa = ${
  about.options.kappa}, fastspade ${about.fastspade}`;
byId("reset").textContent = data.categories.some((category) => category.threshold) ? "Calibrated thresholds" : "Reset thresholds";
byId("protocol").replaceChildren(...protocols.map((name) => element("option", { value: name, textContent: name })));
byId("protocol").value = state.protocol;
byId("category").replaceChildren(...data.categories.map((category, i) => element("option", { value: i, textContent: category.name })));
selectCategory(0);
