// Cards of test images: sorted, filtered, painted when they come into view.
const PANELS = [["photo", "photograph"], ["heat", "heat map"], ["mask", "mask"], ["truth", "ground truth"]];
const VERDICTS = { right: "right", missed: "missed", alarm: "false alarm" };
const CARD_SIDE = 176;
const visible = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      visible.add(entry.target);
      paintCard(entry.target);
    } else {
      visible.delete(entry.target);
    }
  }
}, { rootMargin: "200px" });
let shownImages = [];

function paintCard(card) {
  for (const canvas of card.querySelectorAll("canvas")) {
    if (canvas.dataset.painted) continue;
    canvas.dataset.painted = "yes";
    paint(canvas, card.image, canvas.dataset.layer, CARD_SIDE);
  }
}

function chosenImages() {
  const text = byId("text").value.trim().toLowerCase();
  const found = current().images.filter((image) => (!byId("kind").value || image.kind === byId("kind").value)
    && (!byId("verdict").value || verdict(image) === byId("verdict").value)
    && (!text || image.name.toLowerCase().includes(text)));
  const orders = {
    "score-down": (a, b) => b.score - a.score,
    "score-up": (a, b) => a.score - b.score,
    wrong: (a, b) => (verdict(a) === "right") - (verdict(b) === "right") || b.score - a.score,
    name: (a, b) => a.name.localeCompare(b.name),
    kind: (a, b) => a.kind.localeCompare(b.kind) || b.score - a.score,
  };
  return found.sort(orders[byId("sort").value]);
}

function makeCard(image) {
  const card = element("button", { type: "button", className: "card", image });
  card.dataset.kind = image.kind === "good" ? "good" : "defect";
  const facts = element("span", { className: "facts" }, element("span", { textContent: image.kind }),
    element("span", { textContent: short(image.score) }), element("span", { className: "verdict" }));
  const panels = element("span", { className: "panels" });
  for (const [layer, title] of PANELS) {
    const missing = layer === "truth" && !image.mask;
    const canvas = element("canvas", { width: 4, height: 4 });
    canvas.dataset.layer = layer;
    canvas.setAttribute("aria-hidden", "true");
    panels.append(element("span", {}, canvas, missing ? "no ground truth" : title));
  }
  card.append(element("span", { className: "name", textContent: image.name }), facts, panels);
  card.addEventListener("click", () => openDetail(image));
  markCard(card);
  return card;
}

function markCard(card) {
  const found = verdict(card.image);
  card.dataset.verdict = found;
  card.querySelector(".verdict").textContent = VERDICTS[found];
}

function drawGallery() {
  shownImages = chosenImages();
  watcher.disconnect();
  visible.clear();
  const cards = shownImages.map(makeCard);
  byId("gallery").replaceChildren(...cards.map((card) => element("li", {}, card)));
  cards.forEach((card) => watcher.observe(card));
  byId("shown").textContent = `${shownImages.length} of ${current().images.length} images`;
}

// After a threshold moved: verdicts of all cards, masks of those in view; the order and the filter follow.
function updateVerdicts() {
  if (byId("verdict").value || byId("sort").value === "wrong") drawGallery();
  else document.querySelectorAll(".card").forEach(markCard);
}

function repaint(...layers) {
  for (const canvas of document.querySelectorAll(".card canvas")) {
    if (layers.includes(canvas.dataset.layer)) delete canvas.dataset.painted;
  }
  visible.forEach(paintCard);
}

// The mask also outlines the heat map. At most once per frame, however fast the slider moves.
let repainting = false;
function repaintMasks() {
  if (repainting) return;
  repainting = true;
  requestAnimationFrame(() => {
    repainting = false;
    repaint("mask", "heat");
  });
}

function fillKinds() {
  const kinds = [...new Set(current().images.map((image) => image.kind))].sort();
  byId("kind").replaceChildren(element("option", { value: "", textContent: "all" }),
    ...kinds.map((kind) => element("option", { value: kind, textContent: kind })));
}
